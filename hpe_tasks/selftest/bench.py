"""A healthy run, and copies of it with something changed: what faults are planted on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.local.memory_bucket import MemoryBucket
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import Watch, run_steps
from hpe_tasks.pipeline.runs import Pointer, Run, open_run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.base import Record
from hpe_tasks.storage.workspace import Scratch

T = TypeVar("T")

DATA = SampleSpec(train=1, calibration=24, val=64)
"""Few enough pictures that all is done in two minutes, enough that the healthy run passes for certain."""

SETTINGS: dict[str, Any] = {
    "dataset.min_persons": 100,
    "recipe.calibration_images": DATA.calibration,
    # A little below what the sample network reaches on these pictures.
    "gate.min_ap": 0.68,
    # On so few images an interval is some hundredths wide: the planted faults lose more than these limits.
    "gate.max_ap_drop": 0.04,
    "gate.max_joint_drop": 0.06,
    "gate.max_size_drop": 0.06,
    "gate.max_quantsim_gap": 0.03,
    "gate.resamples": 2000,
    "destination.registry": "s3://hpe-selftest/registry",
    "destination.name": "selftest",
    # The golden images go with the version; the function answers in this process, and no package is built.
    "destination.smoke_test": True,
}
"""What differs from the preset `sample`."""

_BUCKET = "hpe-selftest"


@dataclass
class Bench:
    """Where faults are planted.

    Attributes:
        home: Folder of this machine that keeps the pictures and the results of the healthy run from one time to the
            next: they are reused as those of any run are.
        folder: Folder of this time, for what is planted.
        watch: Is told of the steps of the healthy run.
    """

    home: Path
    folder: Path
    watch: Watch | None = None
    _shared: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def bucket(self) -> MemoryBucket:
        """The bucket that the healthy run publishes to."""
        return MemoryBucket(_BUCKET)

    @cached_property
    def data(self) -> Path:
        """The healthy data set."""
        root = self.home / f"data-{DATA.calibration}-{DATA.val}-{DATA.seed}"
        if not root.is_dir():
            self.home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.home) as draft:
                make_sample(Path(draft) / "data", DATA, splits=("calibration", "val"))
                try:
                    (Path(draft) / "data").rename(root)
                except OSError:
                    # Another process may have been faster.
                    if not root.is_dir():
                        raise
        return root

    @cached_property
    def config(self) -> RunConfig:
        """What the healthy run is asked."""
        return load_config("sample", overrides={**SETTINGS, "dataset.source": str(self.data)})

    @cached_property
    def healthy(self) -> Run:
        """The healthy run: all steps up to a stored version have been done, and every guard has let it pass.

        Raises:
            HpeError: A guard has stopped it.
        """
        run = self._open(self.config, "healthy", self.home / "workspace", self.bucket)
        run_steps(REQUANTIZE, run, REQUANTIZE.needed_for(steps.publish), self.watch)
        return run

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What several faults need, made once."""
        if name not in self._shared:
            self._shared[name] = make()
        return cast("T", self._shared[name])

    def new_folder(self, name: str) -> Path:
        """A new folder for what a fault needs."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def altered_data(self, name: str) -> Path:
        """A copy of the data set, to be changed."""
        root = self.new_folder(name) / "data"
        shutil.copytree(self.data, root)
        return root

    def asked(self, settings: Mapping[str, Any]) -> RunConfig:
        """The healthy run's configuration with other settings."""
        source = {"dataset.source": str(self.data)}
        return load_config("sample", overrides={**SETTINGS, **source, **settings})

    def new_run(self, name: str, settings: Mapping[str, Any] | None = None) -> Run:
        """A run without results, in a workspace and with a bucket of its own."""
        config = self.config if settings is None else self.asked(settings)
        return self._open(config, name, self.new_folder(name) / "workspace", MemoryBucket(_BUCKET))

    def planted_run(
        self,
        name: str,
        before: Step[Any],
        *,
        settings: Mapping[str, Any] | None = None,
        instead: Mapping[Step[Any], Record] | None = None,
    ) -> Run:
        """A run that stands before a step: what that needs has the healthy run's results, or others in their place.

        Args:
            name: Of the run.
            before: The step that is to run next.
            settings: What differs in its configuration.
            instead: Records in the place of the healthy ones; a step that is given here comes before, too.
        """
        run, other = self.new_run(name, settings), dict(instead or {})
        for step in REQUANTIZE.needed_for(before):
            # No recipe is searched: the rungs are left out of the healthy run, too.
            if step is not before and not REQUANTIZE.skip_reason(step, self.healthy):
                self.leave(run, step, other.get(step) or self.healthy.result(step))
        return run

    def leave_healthy(self, run: Run, *results_of: Step[Any]) -> None:
        """Let the healthy run's results be what these steps have left in a run."""
        for step in results_of:
            self.leave(run, step, self.healthy.result(step))

    def leave(self, run: Run, step: Step[Any], record: Record) -> None:
        """Let this be what a step has left in a run."""
        pointer = Pointer(
            step=step.name,
            key=run.key(step),
            reused=True,
            finished_at=datetime.now(UTC),
            record=record.model_dump(mode="json"),
        )
        run.keep(pointer)

    def scratch(self, name: str) -> Scratch:
        """A folder as a step gets one."""
        folder = self.new_folder(name)
        return Scratch(folder, folder.as_uri())

    def exported_file(self) -> Path:
        """The healthy run's exported file."""
        return self.healthy.workspace.local(self.healthy.result(steps.export_onnx).model)

    def _open(self, config: RunConfig, name: str, workspace: Path, bucket: MemoryBucket) -> Run:
        client = bucket.client()
        return open_run(config, workspace=workspace.as_uri(), cache=self.home / "cache", name=name, s3=lambda: client)


def checkpoint_of(bench: Bench) -> Path:
    """The healthy checkpoint."""
    return bench.healthy.workspace.local(bench.healthy.result(steps.fetch_checkpoint).file)
