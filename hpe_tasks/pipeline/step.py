"""A step of a pipeline: a handle with the type of its record, and the rules that all steps share.

The rules: inputs are checked before anything is done, a result of the same inputs is reused, and a failure is stored.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import ConfigError, MissingInputError, SupersededError
from hpe_tasks.faults import reached
from hpe_tasks.pipeline.reach import code_version
from hpe_tasks.pipeline.runs import FAILURE, Pointer, Run
from hpe_tasks.records.base import Record
from hpe_tasks.storage.claims import claim
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.s3_requests import S3Requests, counting_requests
from hpe_tasks.storage.workspace import Scratch, stored_under

R = TypeVar("R", bound=Record)

Body = Callable[[Run, Scratch], R]

log = logging.getLogger(__name__)


class Results(Protocol):
    """Where the records of steps can be looked up: a run, or what was collected of one."""

    @property
    def asked(self) -> RunConfig:
        """What the run was asked."""

    @property
    def config(self) -> RunConfig:
        """What the run goes by: with the recipe that a search has chosen."""

    def find(self, step: Step[R]) -> R | None:
        """The record of a step; None where it has none."""


def _nothing(_: Any) -> None:
    """Accept any record; or depend on no setting."""


def _always(_: RunConfig, __: Any) -> bool:
    """Any stored record may stand in."""
    return True


def _never(_: Any) -> bool:
    """No record refuses the model."""
    return False


def never_skipped(_: Results) -> str:
    """No reason to leave the step out."""
    return ""


def _done(_: Any) -> str:
    return "done"


@dataclass(frozen=True)
class Sharding:
    """How several workers do the work of a step in parts, before it puts these together.

    The step works without: it makes what is missing itself.

    Attributes:
        count: How many parts a run has; with one there is nothing to do before the step. Raises MissingInputError where
            only a step that has not run yet will tell.
        make: Makes one of them by its number, and keeps it where the step finds it; a part that is kept is not made
            again.
    """

    count: Callable[[Run], int]
    make: Callable[[Run, int], object]


@dataclass(frozen=True, eq=False)
class _Rules(Generic[R]):
    """What is said of a step, once for the step and for the decorator that makes it.

    Attributes:
        kind: Type of its record.
        title: What it does, in two or three words.
        needs: Steps whose results must be there, and made from the inputs of this run. It may read them, and those that
            they need in turn: all of these decide its outcome.
        needs_unless_skipped: Needed in the same way, but for those that a rule of theirs leaves out of the run.
        after: Steps that must have had a result that is accepted, which does not change the outcome of this one; but
            for those that a rule of theirs leaves out of the run.
        follows: Steps that come earlier where they are run at all; this one works without them.
        settings: The part of the configuration that changes the outcome.
        before_choice: It comes before a recipe is chosen: its settings are those that were asked.
        accept: Raises when the record, once stored, must stop the run.
        refused: Whether the record refuses the model: the run has not failed, but does not publish.
        skip: Why the step is left out of a run; empty where it is not.
        quiet: Where it is left out, it is not listed among the run's steps.
        found: For a step that reads from outside the workspace: digest of what lies there now.
        reuse: Whether an earlier result from the same inputs may stand in; otherwise the step always runs.
        reusable: Whether this one may; otherwise it is made again, as a measurement that was too noisy.
        tell: What a record comes to, in a line or an address.
        shown_as: Field of the collected records that holds its record; empty where it is not collected.
        whatever_came: It runs at the end of a run, whatever the others have come to.
        sharding: How several workers do its work in parts, where they can.
    """

    kind: type[R]
    title: str
    _: KW_ONLY
    needs: tuple[Step[Any], ...] = ()
    needs_unless_skipped: tuple[Step[Any], ...] = ()
    after: tuple[Step[Any], ...] = ()
    follows: tuple[Step[Any], ...] = ()
    settings: Callable[[RunConfig], Any] = _nothing
    before_choice: bool = False
    accept: Callable[[R], None] = _nothing
    refused: Callable[[R], bool] = _never
    skip: Callable[[Results], str] = never_skipped
    quiet: bool = False
    found: Callable[[Run], str] | None = None
    reuse: bool = True
    reusable: Callable[[RunConfig, R], bool] = _always
    tell: Callable[[R], str] = _done
    shown_as: str = ""
    whatever_came: bool = False
    sharding: Sharding | None = None


@dataclass(frozen=True, eq=False)
class Step(_Rules[R]):
    """A step: what it is called, what it makes of what, and the function that does it.

    Calling it runs it in a run. It is also the handle by which its record is asked for: `run.result(evaluate_fp32)`.

    Attributes:
        body: Fills a scratch folder and returns the record.
        name: Of the step's folder in a run, of its task in Airflow and of its command.
    """

    _: KW_ONLY
    body: Body[R]
    name: str

    def __repr__(self) -> str:
        """Its name: the functions inside say nothing."""
        return f"<step {self.name}>"

    @property
    def summary(self) -> str:
        """What it does, in a sentence: the first of its function's description."""
        return " ".join((inspect.getdoc(self.body) or self.title).partition("\n\n")[0].split())

    def make_shard(self, run: Run, number: int) -> None:
        """Do one part of the step's work for it; keeps the reason as the step's where it fails.

        Raises:
            ConfigError: The step has no such part in this run.
            MissingInputError: An input is not there, or was made from other inputs.
        """
        count = 1 if self.sharding is None else self.sharding.count(run)
        if self.sharding is None or not 0 <= number < count:
            raise ConfigError(
                f"{self.name} has no part {number} in this run: it has {count}, counted from 0.",
                hint="Set evaluation.shards to the number of parts, and name one of them.",
            )
        reached(f"{self.name}, part {number} begins")
        requests = S3Requests()
        try:
            with counting_requests() as requests:
                claim(run.workspace, run.home)
                self.sharding.make(run, number)
        except Exception as error:
            run.keep_failure(self.name, error)
            raise
        finally:
            if requests.total:
                log.info("%s, part %d of %d: %s", self.name, number, count, requests)
        reached(f"{self.name}, part {number} ends")

    def __call__(self, run: Run) -> R:
        """Run the step, or take the stored result of the same inputs; keeps the reason where it fails."""
        requests = S3Requests()
        try:
            with counting_requests() as requests:
                return self._run(run)
        finally:
            if requests.total:
                log.info("%s: %s", self.name, requests)

    def _run(self, run: Run) -> R:
        reached(f"{self.name} begins")
        try:
            record = self._execute(run)
        except SupersededError:
            raise  # What the run shows is of the attempt that goes on.
        except Exception as error:
            run.keep_failure(self.name, error)
            raise
        run.workspace.remove(f"{run.prefix}/{self.name}/{FAILURE}")
        reached(f"{self.name} ends")
        return record

    def _execute(self, run: Run) -> R:
        claim(run.workspace, run.home)
        key = self.found(run)[:32] if self.found is not None else run.key(self)
        make = partial(self.body, run)
        if self.reuse:
            good = partial(self.reusable, run.config)
            record, reused = run.workspace.once(self.name, key, self.kind, make, reusable=good)
        else:
            record, reused = run.workspace.renew(f"{run.prefix}/{self.name}", make), False
        pointer = Pointer(
            step=self.name, key=key, reused=reused, finished_at=datetime.now(UTC), record=record.model_dump(mode="json")
        )
        run.keep(pointer, stored=stored_under(self.name, key) if self.reuse else None)
        self.accept(record)
        log.info("%s: %s", self.name, "reused the result of the same inputs" if reused else "done")
        return record

    def key(self, run: Run) -> str:
        """Digest of everything that decides the outcome in this run; `Run.key` keeps it.

        Raises:
            MissingInputError: An input is not there, or was made from other inputs or by another version of the code.
            BadInputError: An input must stop the run.
        """
        inputs: dict[str, str] = {}
        for step in (*self.needs, *self.needs_unless_skipped, *self.after):
            if step not in self.needs and step.skip(run):
                continue
            pointer = step.require(run, wanted_by=self.name)
            step.accept(step.read(pointer))
            if step not in self.after:
                inputs[step.name] = pointer.key
        code, settings = code_version(self.body), self.settings(run.asked if self.before_choice else run.config)
        return digest_of({"step": self.name, "code": code, "settings": settings, "inputs": inputs})[:32]

    def require(self, run: Run, *, wanted_by: str) -> Pointer:
        """What the step has left in a run, checked.

        Raises:
            MissingInputError: There is nothing, or it was made from other inputs or by another version of the code.
        """
        pointer = run.pointer(self.name)
        if pointer is None:
            raise MissingInputError(
                f"{wanted_by} needs the result of {self.name}, which has not run yet in {run.name}.",
                hint=f"Run {self.name} first, with the same configuration.",
            )
        if (self.needs or self.needs_unless_skipped) and pointer.key != run.key(self):
            raise MissingInputError(
                f"The result of {self.name} in {run.name} was made from other inputs or by another version of the "
                "code.",
                hint=f"Run {self.name} again before {wanted_by}.",
            )
        return pointer

    def read(self, pointer: Pointer) -> R:
        """The record that a pointer holds; raises MissingInputError where another version of the code wrote it."""
        try:
            return self.kind.model_validate(pointer.record)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise MissingInputError(
                f"The result of {self.name} was made by another version of the code and cannot be read ({where}).",
                hint=f"Run {self.name} again.",
            ) from error


@dataclass(frozen=True, eq=False)
class step(_Rules[R]):
    """Make a step of a function that fills a scratch folder and returns a record of this kind: a decorator.

    The step's name is the function's; the arguments are what is said of it.
    """

    def __call__(self, body: Body[R]) -> Step[R]:
        """The step that a function is the body of."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return Step(body=body, name=body.__name__, **said)
