"""A run of a pipeline: what it was asked, and what its steps have left in its folder of the workspace."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from hpe_tasks.config.addresses import (
    CREDENTIALS_ADVICE,
    address_identity,
    credentials_text,
    redacted_text,
    settings_with_credentials,
    without_credentials,
)
from hpe_tasks.config.base import Frozen
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import BadInputError, ConfigError, HpeError, MissingInputError, shortened
from hpe_tasks.records.base import Record
from hpe_tasks.records.run import StepFailure
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.workspace import RESULT, Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.pipeline.step import Step

R = TypeVar("R", bound=Record)
F = TypeVar("F", bound=Frozen)

FAILURE = "failure.json"
CONFIG = "run.json"
RUNS = "runs"
LATEST = "latest.json"

UNFINISHED = "unfinished_training"
"""Folder of a run for what its training goes on from, until it has ended."""

CHOICE = "choose_recipe"
"""The step whose record holds the `recipe` that a search has come to."""

FIRST_PIPELINE = "hpe_requantize"
"""The pipeline of a run that names none: there was no other."""

_LONGEST_FOLDER_BYTES = 255
"""What file systems take."""
_LONGEST_NAME_BYTES = 240
"""Of a folder's part for the run's name; behind it comes the digest of what the run is asked."""

log = logging.getLogger(__name__)


class Pointer(Frozen):
    """What a run's `result.json` holds: a step's record, and the digest of the inputs that it was made from."""

    step: str
    key: str
    reused: bool
    finished_at: datetime
    record: dict[str, Any]


class RunFile(Frozen):
    """What `run.json` holds: what the run was asked, without credentials, when, and of which pipeline."""

    started: datetime
    config: RunConfig
    pipeline: str = FIRST_PIPELINE


def _no_key() -> bytes | None:
    return None


@dataclass(frozen=True)
class Run:
    """One run: what it was asked, and where its steps find each other's results.

    What it has once read or checked it keeps, so that no step asks a workspace on S3 twice for the same. Open the run
    again, or make a copy with `dataclasses.replace`, to see what other processes have done since.

    Attributes:
        asked: What the run was asked.
        name: Folder of the run in the workspace.
        cache: Folder of this machine for downloads and data sets.
        s3: Makes the client for data, checkpoints and the registry.
        signing_key: Gives the private key that manifests are signed with, in PEM; None without one.
        pipeline: Name of the pipeline whose steps make up the run.
        part: Folder within the run's own, where it is a part of a run; see `within`.
        listed: Names of its files, where they have been listed: the workspace is not asked for others.
        at_hand: What steps have fetched to this machine, for the steps after them in the same process.
    """

    asked: RunConfig
    workspace: Workspace
    name: str
    cache: Path
    s3: Callable[[], S3Client]
    signing_key: Callable[[], bytes | None] = _no_key
    pipeline: str = FIRST_PIPELINE
    part: str = ""
    listed: frozenset[str] | None = None
    at_hand: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _pointers: dict[str, Pointer | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _keys: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _settled: dict[str, RunConfig] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def config(self) -> RunConfig:
        """What the run goes by: what it was asked, with the recipe that its search has chosen, once it has one."""
        if self.asked.recipe.search == "off":
            return self.asked
        if not self._settled:
            choice = self.pointer(CHOICE)
            self._settled["config"] = self.asked if choice is None else self._with_recipe(choice.record.get("recipe"))
        return self._settled["config"]

    def _with_recipe(self, recorded: Any) -> RunConfig:
        try:
            recipe = QuantizationRecipe.model_validate(recorded)
        except ValidationError as error:
            raise MissingInputError(
                f"The recipe that {CHOICE} has left in {self.name} was recorded by another version of the code.",
                hint=f"Run {CHOICE} again.",
            ) from error
        return self.asked.model_copy(update={"recipe": recipe})

    @property
    def home(self) -> str:
        """The run's folder under the workspace, of which its parts have folders of their own."""
        return f"{RUNS}/{self.name}"

    @property
    def prefix(self) -> str:
        """Where its steps leave their records: its folder under the workspace, or that of this part of it."""
        return f"{self.home}{self.part and '/'}{self.part}"

    def within(self, part: str, recipe: QuantizationRecipe, known: Iterable[str]) -> Run:
        """A part of the run that tries another recipe, with a folder of its own inside of the run's.

        Args:
            part: Name of its folder.
            recipe: What it tries; without a search.
            known: Names of the steps whose results it has in common with the run.
        """
        run = replace(self, asked=self.asked.model_copy(update={"recipe": recipe}), part=part)
        run.at_hand.update(self.at_hand)
        run._pointers.update({step: self.pointer(step) for step in known})
        return run

    @property
    def started(self) -> datetime | None:
        """When the run was opened first."""
        file = self._read(CONFIG, RunFile)
        return None if file is None else file.started

    def pointer(self, step: str) -> Pointer | None:
        """What a step left in this run, be it current or not."""
        if step not in self._pointers:
            self._pointers[step] = self._read(f"{step}/{RESULT}", Pointer)
        return self._pointers[step]

    def keep(self, pointer: Pointer, *, stored: str | None = None) -> None:
        """Let this be what a step has left in the run.

        Args:
            pointer: Its record, and what it was made from.
            stored: Folder of the workspace with its files, where they are not in the step's own.
        """
        self.workspace.attach(f"{self.prefix}/{pointer.step}", stored, pointer.model_dump_json(indent=1).encode())
        self._pointers[pointer.step] = pointer
        self._keys.clear()
        self._settled.clear()

    def key(self, step: Step[Any]) -> str:
        """Digest of everything that decides the outcome of a step; raises as `Step.key`."""
        if step.name not in self._keys:
            self._keys[step.name] = step.key(self)
        return self._keys[step.name]

    def result(self, step: Step[R]) -> R:
        """The record of a step that the caller needs.

        Raises:
            MissingInputError: There is none, or it was made from other inputs or by another version of the code.
            BadInputError: An input of it is refused now, as a data set whose validation failed.
        """
        return step.read(step.require(self, wanted_by="the caller"))

    def find(self, step: Step[R]) -> R | None:
        """The record that a step left in this run; None when there is none or its inputs have changed since.

        "Changed" includes an input that is refused now, as a data set whose validation failed.
        """
        try:
            return self.result(step)
        except BadInputError:
            return None

    def recorded(self, step: Step[R]) -> R | None:
        """The record that a step left in this run, whatever has changed since: for looking back.

        One that another version of the code left, and that this one cannot read, is None and said in the log.
        """
        pointer = self.pointer(step.name)
        try:
            return None if pointer is None else step.read(pointer)
        except MissingInputError as error:
            log.warning("In %s: %s", self.name, error.message)
            return None

    def failure(self, step: str) -> StepFailure | None:
        """Why the last attempt at a step failed, whatever has changed since; None when it succeeded."""
        return self._read(f"{step}/{FAILURE}", StepFailure)

    def _read(self, name: str, kind: type[F]) -> F | None:
        """A small file of the run; one that is broken is none, and said in the log."""
        if self.listed is not None and f"{self.prefix}/{name}" not in self.listed:
            return None
        data = self.workspace.read(f"{self.prefix}/{name}")
        try:
            return None if data is None else kind.model_validate_json(data)
        except ValidationError:
            log.warning("%s/%s in %s cannot be read and does not count", self.prefix, name, self.workspace.uri)
            return None

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


def open_run(
    config: RunConfig,
    *,
    workspace: str,
    cache: Path,
    name: str,
    s3: Callable[[], S3Client],
    signing_key: Callable[[], bytes | None] = _no_key,
    pipeline: str = FIRST_PIPELINE,
) -> Run:
    """Open a run, new or known.

    Args:
        config: What the run is asked. Runs of one name with different configurations do not meet, nor do runs of
            different pipelines.
        workspace: `file://` or `s3://` address that all workers share.
        cache: Folder of this machine for downloads.
        name: Name of the run, as Airflow or the user calls it.
        s3: Makes the S3 client, when one is needed.
        signing_key: Gives the private key for manifests in PEM, when the run publishes.
        pipeline: Name of its pipeline.
    """
    from hpe_tasks.storage.opening import open_workspace

    if not name:
        raise ConfigError("The run's name is empty.", hint="Give it one, such as --run local.")
    run = Run(
        asked=config,
        workspace=open_workspace(workspace, s3=s3, cache=cache),
        name=f"{_folder(name)}-{_asked_digest(config, pipeline)[:8]}",
        cache=cache,
        s3=s3,
        signing_key=signing_key,
        pipeline=pipeline,
    )
    if run.started is None:
        told = settings_with_credentials(config)
        if told:
            log.warning("%s %s", credentials_text(told), CREDENTIALS_ADVICE)
        file = RunFile(started=datetime.now(UTC), config=without_credentials(config), pipeline=pipeline)
        run.workspace.write(f"{run.prefix}/{CONFIG}", file.model_dump_json(indent=1).encode())
    return run


def is_run_name(name: str) -> bool:
    """Whether a run's folder may be called so: it leads to no other folder, and is not hidden."""
    return bool(name) and not name.startswith(".") and all(map(_is_kept, name))


def _is_kept(character: str) -> bool:
    return character.isalnum() or character in "-_.+"


def _folder(name: str) -> str:
    """A run's name as its folder's, without the digest of what it is asked: no separators, not hidden, not too long."""
    safe = "".join(character if _is_kept(character) else "-" for character in name)
    safe = f"_{safe}" if safe.startswith(".") else safe
    encoded = safe.encode()
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return safe
    # Names that begin alike keep apart.
    digest = digest_of(name)[:16]
    return encoded[: _LONGEST_NAME_BYTES - len(digest) - 1].decode(errors="ignore") + f"-{digest}"


_LATER_SETTINGS = {
    ("dataset", "allow_private_addresses"): False,
    ("evaluation", "shards"): 1,
    ("evaluation", "fp32_runtime"): "torch",
}
"""Settings that were added when there were runs already, with what went before: those runs keep their folders."""


def _asked_digest(config: RunConfig, pipeline: str) -> str:
    asked = _identities(config.model_dump(mode="json"))
    for (section, key), before in _LATER_SETTINGS.items():
        if asked[section][key] == before:
            del asked[section][key]
    return digest_of(asked if pipeline == FIRST_PIPELINE else [pipeline, asked])


def _identities(value: Any) -> Any:
    """Settings as they name a run: whoever gives an address with another credential asks for the same."""
    if isinstance(value, dict):
        return {key: _identities(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_identities(inner) for inner in value]
    return address_identity(value) if isinstance(value, str) else value


def find_run(name: str | None, *, workspace: str, cache: Path, s3: Callable[[], S3Client]) -> Run:
    """Open a run by its name or its folder in the workspace; the run that reported last when `name` is None.

    Raises:
        MissingInputError: There is no such run.
    """
    from hpe_tasks.storage.opening import open_workspace

    place = open_workspace(workspace, s3=s3, cache=cache)
    if name is None:
        latest = place.read(LATEST)
        if latest is None:
            raise MissingInputError(f"No run has reported in {workspace} yet.", hint="Start one with `hpe run`.")
        name = _latest_in(latest, workspace)
    asked = None if len(os.fsencode(name)) > _LONGEST_FOLDER_BYTES else place.read(f"runs/{name}/{CONFIG}")
    if asked is None:
        # A run's folder is its name with a digest of its configuration.
        folders = [f for f in place.folders("runs") if f.rpartition("-")[0] in {name, _folder(name)}]
        if len(folders) != 1:
            hint = f"Choose one of: {', '.join(folders)}." if folders else "Check the name and HPE_WORKSPACE."
            raise MissingInputError(f"{len(folders) or 'No'} runs are called {name!r} in {workspace}.", hint=hint)
        name = folders[0]
        asked = place.read(f"runs/{name}/{CONFIG}") or b""
    return run_asked(asked, place, name, cache=cache, s3=s3)


def run_asked(
    asked: bytes,
    workspace: Workspace,
    name: str,
    *,
    cache: Path,
    s3: Callable[[], S3Client],
    listed: frozenset[str] | None = None,
) -> Run:
    """A run that is there, by its `run.json` and its folder; `listed` as of `Run`.

    Raises:
        BadInputError: Another version of the code wrote it, which this one cannot read.
    """
    try:
        file = RunFile.model_validate_json(asked)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise BadInputError(
            f"The run {name} in {workspace.uri} was made by another version of this project: {where}: "
            f"{problem['msg']}.",
            hint="Use that version to look at it, or start the run again.",
        ) from error
    return Run(
        asked=file.config, workspace=workspace, name=name, cache=cache, s3=s3, pipeline=file.pipeline, listed=listed
    )


def _latest_in(data: bytes, workspace: str) -> str:
    try:
        return str(json.loads(data)["run"])
    except (ValueError, TypeError, KeyError) as error:
        raise MissingInputError(
            f"{LATEST} in {workspace}, which names the run that reported last, cannot be read.",
            hint="Name the run; the next report writes the file anew.",
        ) from error


def failure_message(error: BaseException | str) -> str:
    """What is kept of an error: its message, with its type where it was not foreseen."""
    if isinstance(error, HpeError):
        return error.message
    # Other libraries quote addresses as they are.
    told = redacted_text(error if isinstance(error, str) else f"{type(error).__name__}: {error}".removesuffix(": "))
    return shortened(told)
