"""The self-test from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hpe_tasks.api.places import places
from hpe_tasks.records.selftest import SelfTest


def run_selftest(
    *,
    only: Sequence[str] = (),
    workspace: str | Path | None = None,
    cache: str | Path | None = None,
    on_progress: Callable[[str], None] | None = print,
) -> SelfTest:
    """Plant faults on a healthy run, and try whether each is refused by its guard; as `hpe selftest` does.

    It takes a few minutes at most and asks neither the network nor the registry. The record and its page are kept in
    the workspace, under `selftest/`.

    Args:
        only: Names of the faults to plant; all of them by default.
        workspace: As for `run`.
        cache: As for `run`.
        on_progress: Is given a line when a trial ends; None for silence.

    Raises:
        ConfigError: There is no fault of such a name.
    """
    from hpe_tasks.selftest.running import keep_selftest
    from hpe_tasks.selftest.running import run_selftest as run
    from hpe_tasks.storage.opening import open_workspace
    from hpe_tasks.storage.s3 import make_client

    found = places(workspace, cache)
    tell = on_progress
    record = run(
        found.cache, only=only, on_trial=None if tell is None else lambda trial: tell(f"{trial.name}: {trial.outcome}")
    )
    page = keep_selftest(record, open_workspace(found.workspace, s3=make_client, cache=found.cache))
    if on_progress is not None:
        on_progress(page)
    return record
