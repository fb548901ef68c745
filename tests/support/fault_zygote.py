"""A process that has imported what steps import, and forks one for each attempt at a step: `python -m`, with a scene.

Orders come on standard input and their ends leave on standard output, a line of JSON each.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpe_tasks.pipeline.pipeline import Pipeline


def main(scene: dict[str, Any]) -> None:
    # Steps measure with as many threads as there are processors.
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:1]))
    answers = os.fdopen(os.dup(1), "w")
    with open(scene["log"], "ab") as log:  # noqa: PTH123
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for line in sys.stdin:
        order = json.loads(line)
        warm_up(scene["pipeline"], order["modules"], order["code of"])
        pid = os.fork()
        if pid == 0:
            os._exit(attempt(scene, order))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps(status), file=answers, flush=True)


def pipeline_called(name: str) -> Pipeline:
    from hpe_tasks.pipeline.pipelines import PIPELINES

    return next(pipeline for pipeline in PIPELINES if pipeline.name == name)


def warm_up(pipeline: str, modules: list[str], steps: list[str]) -> None:
    """Import modules and read the code that steps depend on: what each attempt would begin with."""
    for module in modules:
        with contextlib.suppress(Exception):  # only so that attempts are quick
            importlib.import_module(module)
    if steps:
        from hpe_tasks.pipeline.reach import code_version

        for step in steps:
            code_version(pipeline_called(pipeline).by_name[step.partition(", part ")[0]].body)


def attempt(scene: dict[str, Any], order: dict[str, Any]) -> int:
    """Run steps; the status of the process."""
    try:
        os.environ.pop("HPE_FAULT", None)
        if order.get("fault"):
            os.environ["HPE_FAULT"] = order["fault"]
        run_steps(scene, order["steps"])
        if "learn" in order:
            Path(order["learn"]).write_text(json.dumps(sorted(sys.modules)))
    except BaseException:  # noqa: BLE001 - a process that was forked ends here, whatever came
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run_steps(scene: dict[str, Any], names: list[str]) -> None:
    """Run steps by their names; `STEP, part N` is a part of one, as a task of its own makes it."""
    from hpe_tasks.config.loading import load_config
    from hpe_tasks.pipeline.runs import open_run
    from hpe_tasks.storage.s3 import make_client

    settings = dict(scene["settings"])
    config = load_config(settings.pop("preset"), overrides=settings)
    key = scene["signing_key"].encode()
    pipeline = pipeline_called(scene["pipeline"])
    for name in names:
        run = open_run(
            config,
            workspace=scene["workspace"],
            cache=Path(scene["cache"]),
            name=scene["run"],
            s3=lambda: make_client(**scene["s3"]),
            signing_key=lambda: key,
            pipeline=pipeline.name,
        )
        step_name, _, part = name.partition(", part ")
        step = pipeline.by_name[step_name]
        if part:
            step.make_shard(run, int(part))
        elif not pipeline.skip_reason(step, run):
            step(run)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
