"""Runs of two real steps: one whose result is stored, and one that reads it and always runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hpe_tasks.config.loading import load_config
from hpe_tasks.pipeline.runs import CONFIG, Run, RunFile
from hpe_tasks.pipeline.step import step
from hpe_tasks.records.run import RunReport
from hpe_tasks.storage.workspace import Scratch, Workspace
from support.no_s3 import no_s3


@step(RunReport, "Model", settings=lambda config: config.seed)
def make_model(run: Run, scratch: Scratch) -> RunReport:
    """Write some weights."""
    file = scratch.path / "model.onnx"
    file.write_text(f"weights of {run.config.seed}")
    return RunReport(html=scratch.artifact(file))


@step(RunReport, "Page", needs=(make_model,), reuse=False)
def tell(run: Run, scratch: Scratch) -> RunReport:
    """Write a page about them."""
    weights = run.workspace.local(run.result(make_model).html).read_text()
    file = scratch.path / "page.html"
    file.write_text(f"A page about {weights}.")
    return RunReport(html=scratch.artifact(file))


def open_model_run(workspace: Workspace, name: str, seed: int = 1) -> Run:
    """A run, as any process opens it."""
    config = load_config("sample", overrides={"seed": seed})
    run = Run(asked=config, workspace=workspace, name=f"{name}-12345678", cache=Path("unused"), s3=no_s3)
    if run.started is None:
        file = RunFile(started=datetime.now(UTC), config=config)
        workspace.write(f"{run.prefix}/{CONFIG}", file.model_dump_json().encode())
    return run


def model_run(workspace: Workspace, name: str, seed: int = 1) -> Run:
    """A run whose steps are done."""
    run = open_model_run(workspace, name, seed)
    make_model(run)
    tell(run)
    return run
