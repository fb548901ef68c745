"""A run of the pipeline and the rules that all its steps share: checked inputs, reuse by content, stored failures."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from hpe_tasks.config.run import Frozen, RunConfig
from hpe_tasks.errors import BadInputError, ConfigError, DatasetError, HpeError, MissingInputError
from hpe_tasks.records import FetchedDataset, Record, StepFailure
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.opening import open_workspace
from hpe_tasks.storage.workspace import RESULT, Scratch, Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.dataset import Dataset

R = TypeVar("R", bound=Record)

FAILURE = "failure.json"
CONFIG = "run.json"
LATEST = "latest.json"

log = logging.getLogger(__name__)


class Pointer(Frozen):
    """What a run's `result.json` holds: a step's record, and the digest of the inputs that it was made from."""

    step: str
    key: str
    reused: bool
    finished_at: datetime
    record: dict[str, Any]


class RunFile(Frozen):
    """What `run.json` holds: what the run was asked, and when."""

    started: datetime
    config: RunConfig


def _no_key() -> bytes | None:
    return None


@dataclass(frozen=True)
class Run:
    """One run: what it was asked, and where its steps find each other's results.

    Attributes:
        name: Folder of the run in the workspace.
        cache: Folder of this machine for downloads and data sets.
        s3: Makes the client for data, checkpoints and the registry.
        signing_key: Gives the private key that manifests are signed with, in PEM; None without one.
    """

    config: RunConfig
    workspace: Workspace
    name: str
    cache: Path
    s3: Callable[[], S3Client]
    signing_key: Callable[[], bytes | None] = _no_key

    @property
    def prefix(self) -> str:
        """The run's folder under the workspace."""
        return f"runs/{self.name}"

    @property
    def started(self) -> datetime | None:
        """When the run was opened first."""
        data = self.workspace.read(f"{self.prefix}/{CONFIG}")
        return None if data is None else RunFile.model_validate_json(data).started

    def pointer(self, step: str) -> Pointer | None:
        """What a step left in this run, be it current or not."""
        data = self.workspace.read(f"{self.prefix}/{step}/{RESULT}")
        return None if data is None else Pointer.model_validate_json(data)

    def load(self, kind: type[R]) -> R | None:
        """The record that a step left in this run; None when there is none or its inputs have changed since.

        "Changed" includes an input that is refused now, as a data set whose validation failed.
        """
        info = _step_of(kind)
        try:
            return _record_of(require(self, info.name, wanted_by="the reader"), kind)
        except BadInputError:
            return None

    def recorded(self, kind: type[R]) -> R | None:
        """The record that a step left in this run, whatever has changed since: for looking back.

        One that another version of the code left, and that this one cannot read, is None and said in the log.
        """
        pointer = self.pointer(_step_of(kind).name)
        try:
            return None if pointer is None else _record_of(pointer, kind)
        except MissingInputError as error:
            log.warning("In %s: %s", self.name, error.message)
            return None

    def get(self, kind: type[R]) -> R:
        """The record of a step that this one needs."""
        record = self.load(kind)
        if record is None:
            raise MissingInputError(f"{_step_of(kind).name} has no result in {self.name}.", hint="Run it first.")
        return record

    def failures(self) -> tuple[StepFailure, ...]:
        """Why steps failed, in the order of the steps; without those that an earlier step's new result has outdated."""
        failures = (self.failure(step) for step in STEPS)
        return tuple(failure for failure in failures if failure is not None and not self._outdated(failure))

    def failure(self, step: str) -> StepFailure | None:
        """Why the last attempt at a step failed, whatever has changed since; None when it succeeded."""
        data = self.workspace.read(f"{self.prefix}/{step}/{FAILURE}")
        return None if data is None else StepFailure.model_validate_json(data)

    def keep_failure(self, step: str, error: BaseException | str) -> None:
        """Keep the reason of a failure where the report and `hpe show` find it; says so in the log when it cannot."""
        failure = StepFailure(
            step=step,
            error="" if isinstance(error, str) else type(error).__name__,
            message=failure_message(error),
            hint=error.hint if isinstance(error, HpeError) else "",
            failed_at=datetime.now(UTC),
        )
        try:
            self.workspace.write(f"{self.prefix}/{step}/{FAILURE}", failure.model_dump_json(indent=1).encode())
        except HpeError as second:
            log.warning("The reason of the failure could not be kept for the report: %s", second)

    def _outdated(self, failure: StepFailure) -> bool:
        info = STEPS[failure.step]
        inputs = (self.pointer(name) for name in (*info.needs, *info.after))
        return any(pointer is not None and pointer.finished_at > failure.failed_at for pointer in inputs)

    @cached_property
    def dataset(self) -> tuple[Path, FetchedDataset]:
        """The data set's folder on this machine, fetched if it is not there yet, and what it holds."""
        from hpe_tasks.data.fetch import fetch_dataset

        return fetch_dataset(
            self.config.dataset,
            self.cache,
            self.s3,
            calibration_images=self.config.recipe.calibration_images,
            seed=self.config.seed,
        )

    def split(self, name: str) -> Dataset:
        """One split of the data set, on whichever worker this is; raises DatasetError when it has changed."""
        from hpe_tasks.data.splits import load_split

        root, fetched = self.dataset
        recorded = self.get(FetchedDataset)
        if (recorded.digest, recorded.boxes_sha256) != (fetched.digest, fetched.boxes_sha256):
            raise DatasetError(
                f"The data set {fetched.source} has changed since this run fetched it.",
                hint="Start again from fetch_dataset.",
            )
        return load_split(self.config.dataset.kind, root, name)


def open_run(
    config: RunConfig,
    *,
    workspace: str,
    cache: Path,
    name: str,
    s3: Callable[[], S3Client],
    signing_key: Callable[[], bytes | None] = _no_key,
) -> Run:
    """Open a run, new or known.

    Args:
        config: What the run is asked. Runs of one name with different configurations do not meet.
        workspace: `file://` or `s3://` address that all workers share.
        cache: Folder of this machine for downloads.
        name: Name of the run, as Airflow or the user calls it.
        s3: Makes the S3 client, when one is needed.
        signing_key: Gives the private key for manifests in PEM, when the run publishes.
    """
    if not name:
        raise ConfigError("The run's name is empty.", hint="Give it one, such as --run local.")
    safe = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in name)
    run = Run(
        config=config,
        workspace=open_workspace(workspace, s3=s3, cache=cache),
        name=f"{safe}-{digest_of(config.model_dump(mode='json'))[:8]}",
        cache=cache,
        s3=s3,
        signing_key=signing_key,
    )
    if run.workspace.read(f"{run.prefix}/{CONFIG}") is None:
        file = RunFile(started=datetime.now(UTC), config=config)
        run.workspace.write(f"{run.prefix}/{CONFIG}", file.model_dump_json(indent=1).encode())
    return run


def find_run(name: str | None, *, workspace: str, cache: Path, s3: Callable[[], S3Client]) -> Run:
    """Open a run by its name or its folder in the workspace; the run that reported last when `name` is None.

    Raises:
        MissingInputError: There is no such run.
    """
    place = open_workspace(workspace, s3=s3, cache=cache)
    if name is None:
        latest = place.read(LATEST)
        if latest is None:
            raise MissingInputError(f"No run has reported in {workspace} yet.", hint="Start one with `hpe run`.")
        name = str(json.loads(latest)["run"])
    asked = place.read(f"runs/{name}/{CONFIG}")
    if asked is None:
        # A run's folder is its name with a digest of its configuration.
        folders = [f for f in place.folders("runs") if f.rpartition("-")[0] == name]
        if len(folders) != 1:
            hint = f"Choose one of: {', '.join(folders)}." if folders else "Check the name and HPE_WORKSPACE."
            raise MissingInputError(f"{len(folders) or 'No'} runs are called {name!r} in {workspace}.", hint=hint)
        name = folders[0]
        asked = place.read(f"runs/{name}/{CONFIG}") or b""
    try:
        config = RunFile.model_validate_json(asked).config
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BadInputError(
            f"The run {name} in {workspace} was made by another version of this project: {where}: {problem['msg']}.",
            hint="Use that version to look at it, or start the run again.",
        ) from error
    return Run(config=config, workspace=place, name=name, cache=cache, s3=s3)


@dataclass(frozen=True)
class StepInfo(Generic[R]):
    """What the pipeline knows of a step.

    Attributes:
        kind: Type of the step's record.
        needs: Steps whose results it reads.
        after: Steps whose results must be there and accepted, though it does not read them.
        settings: The part of the configuration that changes its outcome.
        accept: Raises when a record must stop the run, as a failed validation does.
        execute: Runs the step.
    """

    name: str
    kind: type[R]
    needs: tuple[str, ...]
    after: tuple[str, ...]
    settings: Callable[[RunConfig], Any]
    accept: Callable[[R], None]
    execute: Callable[[Run], R]


STEPS: dict[str, StepInfo[Any]] = {}
"""All steps by name, in the order in which they run; filled by `step`."""

Body = Callable[[Run, Scratch], R]


def _nothing(_: Any) -> None:
    """Accept any record; or depend on no setting."""


def _always(_: RunConfig, __: Any) -> bool:
    """Any stored record may stand in."""
    return True


def step(
    kind: type[R],
    *,
    needs: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    settings: Callable[[RunConfig], Any] = _nothing,
    accept: Callable[[R], None] = _nothing,
    found: Callable[[Run], str] | None = None,
    reuse: bool = True,
    reusable: Callable[[RunConfig, R], bool] = _always,
) -> Callable[[Body[R]], Callable[[Run], R]]:
    """Make a step of a function that fills a scratch folder and returns a record.

    Args:
        kind: Type of the record.
        needs: Steps whose results it reads: they must be there, and made from the inputs of this run.
        after: Steps that must have had a result that is accepted, which does not change the outcome of this one.
        settings: The part of the configuration that changes the outcome.
        accept: Raises when the record, once stored, must stop the run.
        found: For a step that reads from outside the workspace: digest of what lies there now.
        reuse: Whether an earlier result from the same inputs may stand in; otherwise the step always runs.
        reusable: Whether this one may; otherwise it is made again, as a measurement that was too noisy.
    """

    def decorate(body: Body[R]) -> Callable[[Run], R]:
        name = body.__name__

        def execute(run: Run) -> R:
            key = found(run)[:32] if found is not None else _key(run, info)
            if reuse:
                good = partial(reusable, run.config)
                record, reused = run.workspace.once(name, key, kind, lambda scratch: body(run, scratch), reusable=good)
            else:
                record = run.workspace.renew(f"{run.prefix}/{name}", lambda scratch: body(run, scratch))
                reused = False
            pointer = Pointer(
                step=name, key=key, reused=reused, finished_at=datetime.now(UTC), record=record.model_dump(mode="json")
            )
            stored = f"store/{name}/{key}" if reuse else None
            run.workspace.attach(f"{run.prefix}/{name}", stored, pointer.model_dump_json(indent=1).encode())
            log.info("%s: %s", name, "reused the result of the same inputs" if reused else "done")
            accept(record)
            return record

        recorded = wraps(body)(_keeping_failures(name, execute))
        info = StepInfo(name, kind, needs, after, settings, accept, recorded)
        STEPS[name] = info
        return recorded

    return decorate


def require(run: Run, name: str, *, wanted_by: str) -> Pointer:
    """The result of a step in a run.

    Raises:
        MissingInputError: There is none, or it was made from other inputs or by another version of the code.
    """
    info = STEPS[name]
    pointer = run.pointer(name)
    if pointer is None:
        raise MissingInputError(
            f"{wanted_by} needs the result of {name}, which has not run yet in {run.name}.",
            hint=f"Run {name} first, with the same configuration.",
        )
    if info.needs and pointer.key != _key(run, info):
        raise MissingInputError(
            f"The result of {name} in {run.name} was made from other inputs or by another version of the code.",
            hint=f"Run {name} again before {wanted_by}.",
        )
    return pointer


def _record_of(pointer: Pointer, kind: type[R]) -> R:
    """The record that a pointer holds; raises MissingInputError where another version of the code wrote it."""
    try:
        return kind.model_validate(pointer.record)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise MissingInputError(
            f"The result of {pointer.step} was made by another version of the code and cannot be read ({where}).",
            hint=f"Run {pointer.step} again.",
        ) from error


def _key(run: Run, info: StepInfo[Any]) -> str:
    """Digest of everything that decides the outcome of a step."""
    inputs: dict[str, str] = {}
    for name in (*info.needs, *info.after):
        pointer = require(run, name, wanted_by=info.name)
        STEPS[name].accept(_record_of(pointer, STEPS[name].kind))
        if name in info.needs:
            inputs[name] = pointer.key
    code, settings = _code_version(), info.settings(run.config)
    return digest_of({"step": info.name, "code": code, "settings": settings, "inputs": inputs})[:32]


_DECIDING_LIBRARIES = {
    *("aimet-torch", "aimet-onnx", "torch", "torchvision", "onnx", "onnxruntime"),
    *("numpy", "scipy", "opencv-python-headless", "pillow", "faster-coco-eval", "pycocotools", "great_expectations"),
}
"""Libraries whose code decides results: names as their distributions have them."""


@cache
def _code_version() -> str:
    """Digest of this package's source and of the libraries that decide results: other code, other keys."""
    package = Path(__file__).parents[1]
    sources = {str(p.relative_to(package)): p.read_text(encoding="utf-8") for p in sorted(package.rglob("*.py"))}
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in _DECIDING_LIBRARIES}
    return digest_of([sources, installed])


def _step_of(kind: type[R]) -> StepInfo[R]:
    return next(info for info in STEPS.values() if info.kind is kind)


def failure_message(error: BaseException | str) -> str:
    """What is kept of an error: its message, with its type where nobody foresaw it."""
    if isinstance(error, HpeError):
        return error.message
    return error if isinstance(error, str) else f"{type(error).__name__}: {error}".removesuffix(": ")


def _keeping_failures(name: str, execute: Callable[[Run], R]) -> Callable[[Run], R]:
    """Keep the reason of a failure in the run, where the report finds it, and raise on."""

    def call(run: Run) -> R:
        try:
            record = execute(run)
        except Exception as error:
            run.keep_failure(name, error)
            raise
        run.workspace.remove(f"{run.prefix}/{name}/{FAILURE}")
        return record

    return call
