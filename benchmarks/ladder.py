"""Climbs the whole ladder of recipes with several networks: what each rung loses, costs and brings.

    python benchmarks/ladder.py [--preset sample] [--network NAME FILE.onnx SIDE PIXELS]... [--dataset FOLDER]
        [--images 200] [--set KEY=VALUE]... [--json FILE] [--picture FILE] [--docs docs/benchmarks.md]

`--preset` takes networks that come with their data; `--network` a single-person ONNX file with 16 MPII joints, measured
on `--dataset` (COCO's layout, splits train2017 and val2017): NAME for the table, SIDE of its square input, PIXELS
`half` (values from -1 to 1) or `imagenet` (ImageNet's mean and deviation). Each climbs by `recipe.search=best`, so no
rung is left out, and none is published. What was measured before is found in the workspace (HPE_WORKSPACE), whatever
processor it was measured on: for another one take another workspace.

The figure is AP of the exported file in onnxruntime on this processor, its interval that of the change against FP32,
paired over images. Latency is one thread against FP32 in the same run. Time and memory are those of a rung's steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import onnx
from marked_docs import write_docs

import hpe_tasks
from hpe_tasks.cli.options import read_values
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.cpu import cpu_features, processor_name
from hpe_tasks.records.ladder import RungOutcome

PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# Nothing is to be refused here for another reason than its loss.
OPEN_GATE = {"gate.min_ap": 0.0, "gate.min_speedup": None, "gate.min_int8_mac_share": 0.0}

Rows = dict[str, list[dict[str, Any]]]


def configs(arguments: argparse.Namespace) -> Iterator[tuple[str, RunConfig]]:
    """The networks that were asked for, by their names in the table."""
    searched = {"recipe.search": "best", "recipe.calibration_images": arguments.images}
    given = read_values(arguments.set)
    for preset in arguments.preset:
        yield preset, hpe_tasks.load_preset(preset, {**searched, **given})
    for name, file, side, pixels in arguments.network:
        mean, std = PIXELS[pixels]
        own = {
            "model.checkpoint": file,
            "model.input_width": int(side),
            "model.input_height": int(side),
            "model.input_layout": input_layout(Path(file)),
            "model.mean": list(mean),
            "model.std": list(std),
            "dataset.source": str(arguments.dataset),
        }
        yield name, hpe_tasks.load_preset("efficientpose_rt_lite", {**own, **OPEN_GATE, **searched, **given})


def input_layout(file: Path) -> str:
    """Where a network's input has its three colours."""
    (image,) = onnx.load(file).graph.input[:1]
    return "nhwc" if image.type.tensor_type.shape.dim[-1].dim_value == 3 else "nchw"


def row(rung: RungOutcome) -> dict[str, Any]:
    """What the table tells of a rung."""
    told: dict[str, Any] = {"rung": rung.name, "state": rung.state, "reason": rung.reason, "chosen": rung.chosen}
    if rung.tried is None or rung.tried.onnx is None:
        return told
    tried, change = rung.tried, rung.tried.change
    return told | {
        "fp32": tried.fp32,
        "quantsim": tried.quantsim,
        "onnx": tried.onnx,
        "low": None if change is None else change.low,
        "high": None if change is None else change.high,
        "times_fp32": None if tried.latency is None else tried.latency.one_thread.ratio,
        "size_mb": (tried.size_bytes or 0) / 1e6,
        "int8_mac_share": tried.int8_mac_share,
        "seconds": tried.seconds,
        "peak_memory_gb": (tried.peak_memory_bytes or 0) / 1e9,
    }


def table(rows: Rows) -> str:
    """All rungs of all networks, in Markdown."""
    lines = [
        "| network | rung | FP32 | QuantSim | file | change (interval) | times FP32 | MB | MACs in int8 | s | GB |",
        f"|{'---|' * 11}",
    ]
    for network, rungs in rows.items():
        for one in rungs:
            name = f"**{one['rung']}**" if one["chosen"] else one["rung"]
            if "onnx" not in one:
                lines.append(f"| {network} | {name} | {one['state']}: {one['reason']} |" + " |" * 8)
                continue
            change = one["onnx"] - one["fp32"]
            between = "" if one["low"] is None else f" ({one['low']:+.3f} to {one['high']:+.3f})"
            speed = "–" if one["times_fp32"] is None else f"{one['times_fp32']:.2f}×"
            cells = [f"{one[key]:.3f}" for key in ("fp32", "quantsim", "onnx")]
            cells += [f"{change:+.3f}{between}", speed, f"{one['size_mb']:.2f}", f"{100 * one['int8_mac_share']:.0f} %"]
            cells += [f"{one['seconds']:.0f}", f"{one['peak_memory_gb']:.1f}"]
            lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Rows, file: Path) -> None:
    """Change of AP against speed: one panel for each network, one dot for each rung."""
    figure, panels = plt.subplots(1, len(rows), figsize=(4.2 * len(rows), 3.6), squeeze=False, layout="constrained")
    for panel, (network, rungs) in zip(panels[0], rows.items(), strict=True):
        panel.axhline(0, color="0.6", linewidth=0.8)
        for number, one in enumerate(rung for rung in rungs if rung.get("times_fp32")):
            change, colour = one["onnx"] - one["fp32"], f"C{number % 10}"
            ends = [[change - one["low"]], [one["high"] - change]] if one["low"] is not None else None
            marker = "D" if one["chosen"] else "o"
            panel.errorbar(one["times_fp32"], change, yerr=ends, fmt=marker, color=colour, capsize=2, label=one["rung"])
        panel.set(title=network, xlabel="times as fast as FP32, one thread")
        panel.legend(fontsize=7)
    panels[0][0].set_ylabel("change of AP, file against FP32")
    figure.savefig(file, dpi=110)


def main(asked: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", default=[], help="a preset that comes with its data")
    parser.add_argument("--network", nargs=4, action="append", default=[], metavar=("NAME", "FILE", "SIDE", "PIXELS"))
    parser.add_argument("--dataset", type=Path, help="what `--network` is measured on")
    parser.add_argument("--images", type=int, default=200, help="to calibrate on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--picture", type=Path, help="draw the figures there (.png or .svg)")
    parser.add_argument("--docs", type=Path, help="write the table into this Markdown file, between its marks")
    arguments = parser.parse_args(asked)
    if arguments.network and arguments.dataset is None:
        parser.error("--network needs --dataset")
    rows: Rows = {}
    for name, config in configs(arguments):
        result = hpe_tasks.run(config, name=f"ladder-{name}")
        wanted = config.recipe.search_rungs
        rows[name] = [row(rung) for rung in result.ladder if wanted is None or rung.name in wanted]
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    text = f"**{processor_name()}** ({', '.join(cpu_features())})\n\n{table(rows)}"
    print(text)
    if arguments.picture:
        draw(rows, arguments.picture)
    if arguments.docs:
        write_docs(arguments.docs, "ladder.py", text)


if __name__ == "__main__":
    main()
