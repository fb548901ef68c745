"""Compares our Lambda function with the reference's, both in the real Runtime Interface Emulator.

On a machine of each kind, then once with what they wrote:

    python benchmarks/lambda.py --json FILE [--quick] [--processor NAME] [--packages FOLDER] [--before FOLDER]
    python benchmarks/lambda.py --merge FILE FILE [--picture FILE]

Every function answers the same event: a 640×480 JPEG of the project's sample, as a function URL passes it on. With
pose_resnet_50 at 256×256: ours, and the reference's (benchmarks/reference_function), dynamically quantized with
unsigned and with signed weights. The weights are random up to the last layer, which is fitted to this one picture, so
that all draw a skeleton. With the sample's network: ours, asked with the person's box, because that network has learned
from such crops. One thread, 1769 MB of memory.

A round starts each function in turn, asks it once (the cold start), warms it up, and times a block of invocations; only
one function runs at a time. Warm times are the durations that the emulator reports, which are what Lambda bills. A cold
start begins with the client's first request, before there is a process, and ends with its answer. Packages are counted
without their models; both are compiled. Ends with 1 when a target is missed.

A processor with VNNI stands for one without by `python tools/as_processor.py avx2 -- python benchmarks/lambda.py …`:
the functions' processes see the older processor and run the kernels that they would run there, as fast as this one
runs them; the tables then say so. What stands in between looks at every library that is loaded, which makes cold starts
longer, so these are not to be compared with those of a machine. `--before` also measures packages that `--packages` of
an earlier commit kept, in the same rounds.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import lambda_packages as packages
import numpy as np
import psutil

from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.data.sample import SampleSpec, draw_picture
from hpe_tasks.data.sample.dataset import Picture
from hpe_tasks.local.emulator import LambdaEmulator
from hpe_tasks.local.environment import lambda_python

ROUNDS, INVOCATIONS, WARM_UP = 8, 40, 5
QUICK_ROUNDS, QUICK_INVOCATIONS = 2, 10
ENVIRONMENT = {"HPE_THREADS": "1", "REFERENCE_THREADS": "1"}
MEMORY_MB = 1769
# One person, standing, all joints in view.
PICTURE = 17
THRESHOLD, MIN_JOINTS = 0.2, 12

OURS, UNSIGNED, SIGNED = "ours, pose_resnet_50", "reference, unsigned", "reference, signed"
SAMPLE = "ours, pose_mobilenet (sample)"
MAX_COLD_MS = 500.0
MIN_SPEED_UP, MIN_SPEED_UP_WITHOUT_VNNI = 2.5, 2.0
MAX_SAMPLE_MS = 12.0


@dataclass
class Measured:
    """What a function took.

    Attributes:
        warm_ms: What the emulator says of each warm invocation.
        inside_ms: What the function itself says of it.
        network_ms: What it says of the network alone; empty for a function that does not say it.
        peak_rss_mb: Of the function's process, for each start.
        joints: How many it draws.
        boxed: Whether it is told where the person is.
    """

    package: packages.Unpacked
    boxed: bool = False
    cold_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)
    inside_ms: list[float] = field(default_factory=list)
    network_ms: list[float] = field(default_factory=list)
    peak_rss_mb: list[float] = field(default_factory=list)
    joints: int = 0

    def event(self, picture: Picture) -> dict[str, Any]:
        """What it is asked."""
        return picture_event(picture, picture.persons[0]["bbox"] if self.boxed else None)

    def summary(self) -> dict[str, float]:
        """One number for each column, in MB and ms."""
        return {
            "unzipped_mb": self.package.unzipped_bytes / 1e6,
            "zipped_mb": self.package.zipped_bytes / 1e6,
            "model_mb": self.package.model_bytes / 1e6,
            "cold_median_ms": statistics.median(self.cold_ms),
            "cold_max_ms": max(self.cold_ms),
            "warm_median_ms": statistics.median(self.warm_ms),
            "warm_p95_ms": float(np.percentile(self.warm_ms, 95)),
            "inside_median_ms": statistics.median(self.inside_ms),
            **({"network_median_ms": statistics.median(self.network_ms)} if self.network_ms else {}),
            "peak_rss_mb": max(self.peak_rss_mb),
            "joints": self.joints,
        }


def picture_event(picture: Picture, box: list[float] | None) -> dict[str, Any]:
    """A function URL's event with a picture of the sample, and a person's box where one is given."""
    jpeg = cv2.imencode(".jpg", picture.image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return {
        "version": "2.0",
        "rawPath": "/",
        "queryStringParameters": {} if box is None else {"boxes": json.dumps([box])},
        "headers": {"content-type": "image/jpeg", "accept": "application/json"},
        "requestContext": {"http": {"method": "POST", "path": "/"}, "requestId": "benchmark"},
        "body": base64.b64encode(jpeg).decode(),
        "isBase64Encoded": True,
    }


def make_packages(picture: Picture, folder: Path) -> dict[str, packages.Unpacked]:
    """All that is compared, made in `folder` unless it is there."""
    if packages.are_kept(folder):
        return packages.kept(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = packages.fitted_resnet(picture, folder)
    reference = packages.reference_packages(packages.dynamic_models(checkpoint, folder), folder, lambda_python())
    made = {
        OURS: packages.resnet_package(checkpoint, folder),
        UNSIGNED: reference["unsigned"],
        SIGNED: reference["signed"],
        SAMPLE: packages.sample_package(folder),
    }
    packages.keep(made, folder)
    return made


def measure_round(function: Measured, event: dict[str, Any], invocations: int, processor: dict[str, str]) -> None:
    """Start a function, and ask it again and again."""
    environment = {**ENVIRONMENT, **processor}
    with LambdaEmulator(function.package.folder, environment=environment, memory_mb=MEMORY_MB) as emulator:
        function.joints = ask(emulator, event)
        function.cold_ms.append(emulator.cold_start_ms)
        for _ in range(WARM_UP):
            ask(emulator, event)
        for _ in range(invocations):
            timings = json.loads(emulator.invoke(event)["body"])["timings_ms"]
            function.inside_ms.append(timings["total"])
            if "network" in timings:
                function.network_ms.append(timings["network"])
        function.warm_ms += reported_ms(emulator.log_text(), 1 + WARM_UP + invocations)[-invocations:]
        function.peak_rss_mb.append(peak_rss_bytes(emulator.pid) / 1e6)


def ask(emulator: LambdaEmulator, event: dict[str, Any]) -> int:
    """Invoke a function; gives the number of joints in its picture, and ends this program where they are too few."""
    answer = emulator.invoke(event)
    body = json.loads(answer["body"]) if answer.get("statusCode") == 200 else {}
    people = body.get("people", [body])
    joints: int = sum(joint["score"] >= THRESHOLD for person in people for joint in person.get("joints", ()))
    if joints < MIN_JOINTS or not body.get("hpe"):
        raise SystemExit(f"The function drew no skeleton: {str(answer)[:2000]}\n{emulator.log_text()}")
    return joints


def reported_ms(log: str, invocations: int) -> list[float]:
    """The duration of each invocation, out of the emulator's log."""
    durations = [float(number) for number in re.findall(r"^REPORT .*\tDuration: ([\d.]+) ms", log, re.MULTILINE)]
    if len(durations) != invocations:
        raise SystemExit(f"The emulator reports {len(durations)} of {invocations} invocations:\n{log}")
    return durations


def peak_rss_bytes(pid: int) -> int:
    """Most memory that the process has had resident so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/{pid}/status does not name VmHWM.")


def processor_environment() -> dict[str, str]:
    """Variables with which a function sees the older processor that this program sees (tools/as_processor.py)."""
    names = ("AS_PROCESSOR", "LD_AUDIT", "LD_PRELOAD", "GLIBC_TUNABLES")
    return {name: os.environ[name] for name in names if name in os.environ} if "AS_PROCESSOR" in os.environ else {}


def targets(found: dict[str, dict[str, float]], *, vnni: bool) -> list[dict[str, Any]]:
    """The targets, and whether they are met."""
    least = MIN_SPEED_UP if vnni else MIN_SPEED_UP_WITHOUT_VNNI
    ours, sample = found[OURS], found[SAMPLE]
    faster = {name: found[name]["warm_median_ms"] / ours["warm_median_ms"] for name in (UNSIGNED, SIGNED)}
    return [
        {
            "target": f"pose_resnet_50, cold start at most {MAX_COLD_MS:.0f} ms (median)",
            "measured": f"{ours['cold_median_ms']:.0f} ms",
            "met": ours["cold_median_ms"] <= MAX_COLD_MS,
        },
        *(
            {
                "target": f"pose_resnet_50, warm at least {least:g}× faster than {name} (medians)",
                "measured": f"{speed_up:.2f}×",
                "met": speed_up >= least,
            }
            for name, speed_up in faster.items()
        ),
        {
            "target": f"pose_mobilenet (sample), warm at most {MAX_SAMPLE_MS:.0f} ms (median)",
            "measured": f"{sample['warm_median_ms']:.1f} ms",
            "met": sample["warm_median_ms"] <= MAX_SAMPLE_MS,
        },
    ]


def markdown(record: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    rows = [
        f"**{machine_name(record['machine'])}**",
        "",
        "| function | package MB, unzipped / zipped | model MB | cold ms, median / max | warm ms, median / p95 | "
        "of which in the handler | in the network | peak RSS MB | joints drawn |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in record["functions"].items():
        network = f"{s['network_median_ms']:.1f}" if "network_median_ms" in s else ""
        rows.append(
            f"| {name} | {s['unzipped_mb']:.0f} / {s['zipped_mb']:.0f} | {s['model_mb']:.1f} | "
            f"{s['cold_median_ms']:.0f} / {s['cold_max_ms']:.0f} | "
            f"{s['warm_median_ms']:.1f} / {s['warm_p95_ms']:.1f} | "
            f"{s['inside_median_ms']:.1f} | {network} | {s['peak_rss_mb']:.0f} | {s['joints']} |"
        )
    rows += ["", "| target | measured | |", "|---|---|---|"]
    rows += [f"| {t['target']} | {t['measured']} | {'met' if t['met'] else 'missed'} |" for t in record["targets"]]
    return "\n".join(rows)


def machine(processor: str | None) -> dict[str, Any]:
    """What the times depend on."""
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    described = {key.strip(): value.strip() for key, value in fields.items()}
    return {
        "processor": processor or described.get("model name", platform.machine()),
        "cpu": cpu_features(),
        "cores": os.cpu_count(),
        "load": psutil.getloadavg(),
    }


def machine_name(machine: dict[str, Any]) -> str:
    """A machine and its int8 instructions, in a line."""
    features = ", ".join(machine["cpu"][1:])
    if machine["as"]:
        return f"{machine['processor']}, {machine['cores']} cores, with the kernels of {machine['as']}"
    return f"{machine['processor']}, {machine['cores']} cores: {features}"


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """The comparison as a picture: a row for each machine."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("Warm invocation, ms (median; line: p95)", "warm_median_ms", "warm_p95_ms", "{:.0f}"),
        ("Cold start, ms (median; line: slowest)", "cold_median_ms", "cold_max_ms", "{:.0f}"),
        ("Peak memory, MB", "peak_rss_mb", None, "{:.0f}"),
    )
    figure, axes = plt.subplots(
        len(records), len(panels), figsize=(13, 0.7 + 2.2 * len(records)), dpi=150, squeeze=False, layout="constrained"
    )
    for record, row in zip(records, axes, strict=True):
        functions = record["functions"]
        colours = ["#0b63ce" if name.startswith("ours") else "#9aa5b8" for name in functions]
        for axis, (title, key, upper, text) in zip(row, panels, strict=True):
            values = [summary[key] for summary in functions.values()]
            ends = [summary[upper or key] for summary in functions.values()]
            axis.barh(list(functions), values, color=colours, height=0.62)
            if upper is not None:
                axis.hlines(range(len(values)), values, ends, colors="#161a22", linewidth=1.2)
            for place, (value, end) in enumerate(zip(values, ends, strict=True)):
                axis.text(end + 0.015 * max(ends), place, text.format(value), va="center", fontsize=9)
            axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axis.set_xlim(0, 1.14 * max(ends))
            axis.invert_yaxis()
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(length=0, labelsize=9)
            if axis is not row[0]:
                axis.set_yticklabels([])
        row[0].annotate(
            machine_name(record["machine"]), (0, 1.17), xycoords="axes fraction", fontsize=9, color="#4a5266"
        )
    figure.savefig(path)
    plt.close(figure)


def merge(files: list[Path], picture: Path | None) -> int:
    """One table for each machine, and one picture of all."""
    records = [json.loads(file.read_text()) for file in files]
    print("\n\n".join(map(markdown, records)))
    if picture is not None:
        draw(records, picture)
    return 0 if all(target["met"] for record in records for target in record["targets"]) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of {QUICK_INVOCATIONS}: a try")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them there, such as docs/images/lambda.png")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="measure nothing: show what --json wrote")
    parser.add_argument("--processor", metavar="NAME", help="name of the processor, where it does not say it itself")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="keep the packages there, or take those there")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="measure packages of an earlier commit as well")
    arguments = parser.parse_args()
    if arguments.merge:
        return merge(arguments.merge, arguments.picture)
    processor = processor_environment()
    rounds, invocations = (QUICK_ROUNDS, QUICK_INVOCATIONS) if arguments.quick else (ROUNDS, INVOCATIONS)
    picture = draw_picture(SampleSpec(width=640, height=480), "val", PICTURE)
    with tempfile.TemporaryDirectory() as folder:
        made = make_packages(picture, (arguments.packages or Path(folder)).absolute())
        if arguments.before is not None:
            before = packages.kept(arguments.before.absolute())
            made |= {name.replace("ours", "before"): before[name] for name in (OURS, SAMPLE)}
        measured = {name: Measured(package, boxed="sample" in name) for name, package in made.items()}
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} …", file=sys.stderr)
            for function in measured.values():
                measure_round(function, function.event(picture), invocations, processor)
    functions = {name: function.summary() for name, function in measured.items()}
    vnni = not processor and any("vnni" in feature for feature in cpu_features())
    record: dict[str, Any] = {
        "machine": {**machine(arguments.processor), "as": processor.get("AS_PROCESSOR")},
        "event_bytes": len(json.dumps(picture_event(picture, None))),
        "rounds": rounds,
        "invocations_per_round": invocations,
        "threads": 1,
        "memory_mb": MEMORY_MB,
        "functions": functions,
        "targets": targets(functions, vnni=vnni),
    }
    print(markdown(record))
    if arguments.json is not None:
        kept = ("cold_ms", "warm_ms", "inside_ms", "network_ms", "peak_rss_mb")
        samples = {name: {kind: getattr(function, kind) for kind in kept} for name, function in measured.items()}
        arguments.json.write_text(json.dumps({**record, "samples": samples}, indent=1) + "\n")
    if arguments.picture is not None:
        draw([record], arguments.picture)
    return 0 if all(target["met"] for target in record["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
