"""Measures what this project's plugin adds to the start of each Airflow process: time, modules, memory.

    python benchmarks/plugin_import.py [--rounds 15] [--json FILE] [--docs docs/benchmarks.md]

Every process of Airflow loads the plugins, and `airflow_local_settings.py` beside them. Each figure is of a process of
its own in which Airflow's plugin manager is imported already, as it is in a scheduler; processes with and without the
import take turns. The time is that of the import alone, from bytecode that is there. Exit code 1 where the median is
100 ms or more, or a module comes along that is no scheduler's business, such as torch or onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from marked_docs import write_docs

from hpe_tasks.contract.cpu import processor_name

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "plugins"
LIMIT_MS = 100.0

LOAD = """
import json, resource, sys, time
import airflow.plugins_manager
before, held = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin, cpu = time.perf_counter(), time.process_time()
if sys.argv[1:]:
    sys.path.append(sys.argv[1])
    import airflow_local_settings, hpe_plugin
told = {
    "ms": 1000 * (time.perf_counter() - begin),
    "cpu_ms": 1000 * (time.process_time() - cpu),
    "modules": sorted(set(sys.modules) - before),
    "added_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024,
}
print("told:" + json.dumps(told))
"""

HEAVY = {
    "aimet_onnx", "aimet_torch", "boto3", "botocore", "cv2", "faster_coco_eval", "great_expectations", "jinja2",
    "lightning_fabric", "matplotlib", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "PIL", "pyarrow", "scipy",
    "tensorboard", "torch", "torchvision",
}  # fmt: skip


def loaded(plugins: Path | None, home: Path) -> dict[str, Any]:
    """What the import from a folder of plugins, or of nothing, costs a process."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    asked = [] if plugins is None else [str(plugins)]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *asked], env=environment, cwd=home, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("told:")]
    told: dict[str, Any] = json.loads(line.removeprefix("told:"))
    return told


def measured(rounds: int) -> dict[str, Any]:
    """Medians over processes, after one that writes bytecode."""
    with tempfile.TemporaryDirectory(prefix="hpe-plugin-") as folder:
        home = Path(folder)
        loaded(PLUGINS, home)
        pairs = [(loaded(PLUGINS, home), loaded(None, home)) for _ in range(rounds)]
    of_plugin = [plugin for plugin, _ in pairs]
    modules = of_plugin[0]["modules"]
    return {
        "processor": processor_name(),
        "rounds": rounds,
        "ms": statistics.median(one["ms"] for one in of_plugin),
        "slowest_ms": max(one["ms"] for one in of_plugin),
        "cpu_ms": statistics.median(one["cpu_ms"] for one in of_plugin),
        "added_mb": statistics.median(plugin["added_mb"] - nothing["added_mb"] for plugin, nothing in pairs),
        "modules": len(modules),
        "heavy": sorted({name.partition(".")[0] for name in modules} & HEAVY),
    }


def table(told: dict[str, Any]) -> str:
    """The figures as Markdown."""
    return (
        f"**{told['processor']}**, {told['rounds']} processes each\n\n"
        "| | median | slowest |\n|---|---|---|\n"
        f"| import of the plugin, ms | {told['ms']:.0f} | {told['slowest_ms']:.0f} |\n"
        f"| its processor time, ms | {told['cpu_ms']:.0f} | |\n"
        f"| memory, MB | {told['added_mb']:.1f} | |\n"
        f"| modules | {told['modules']} | |"
    )


def main() -> int:
    """Measure, and say whether it stays below the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--docs", type=Path, help="write the table into this page")
    options = parser.parse_args()
    told = measured(options.rounds)
    print(table(told))
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if options.docs is not None:
        write_docs(options.docs, "plugin_import.py", table(told))
    if told["heavy"]:
        print(f"heavy modules came along: {', '.join(told['heavy'])}", file=sys.stderr)
    return 1 if told["heavy"] or told["ms"] >= LIMIT_MS else 0


if __name__ == "__main__":
    sys.exit(main())
