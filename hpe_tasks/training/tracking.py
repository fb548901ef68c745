"""A training as runs of an MLflow tracking server: settings, curves and files, told while it goes on.

The server is told from a thread of its own, so that a slow one holds nothing up. One that cannot be reached is told
again later, and said once; no training is lost to it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch import nn

from hpe_tasks.config.addresses import redacted, redacted_text
from hpe_tasks.errors import shortened
from hpe_tasks.records.training_curves import finite, stage_name
from hpe_tasks.storage.files import write_atomically
from hpe_tasks.training.step_means import StepMeans

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

EXPERIMENT = "hpe_tasks"
"""Where MLFLOW_EXPERIMENT_NAME names none."""

RUNS = "mlflow_runs.json"
"""The runs by their stages, beside the curves: a training that is taken up again goes on in its run."""

WEIGHTS = ".safetensors"

_RETRY_S = 10.0
_PATIENCE_S = 30.0
"""How long the end of a stage waits for a server that has failed."""
_LONGEST_S = 600.0
"""How long it waits for one that has not, and is taking a file."""
_BATCH = 1000
"""Metrics of one request, the most that MLflow takes."""
_LONGEST_VALUE = 500
_USUAL = {
    # It is tried again here, where it is known whether the training still goes on.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Nobody is told of a training but the server that was asked for.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

log = logging.getLogger(__name__)

Tell = Callable[["MlflowClient"], None]


class TrackedRuns:
    """Tells a tracking server of a training, one run for each stage.

    Args:
        server: As MLFLOW_TRACKING_URI has it; user and password in it are shown nowhere.
        folder: Remembers the runs.
        experiment: The experiment's name; created when missing.
        artifacts: Files that are told at the end of a stage beside its own, where they are there.
        retry_s: Time until a server that has failed is asked again, in seconds.
        patience_s: How long the end of a stage waits for such a server, in seconds.
    """

    def __init__(
        self,
        server: str,
        folder: Path,
        *,
        experiment: str = EXPERIMENT,
        artifacts: Sequence[Path] = (),
        retry_s: float = _RETRY_S,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        _use_quietly()
        self._server, self._folder, self._experiment = server, folder, experiment
        self._artifacts, self._retry_s, self._patience_s = tuple(artifacts), retry_s, patience_s
        self._stage: _StageRun | None = None
        self._teller: _Teller | None = None
        self._means = StepMeans(0)
        self._complained = False

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Open the stage's run, or that of the killed training that is taken up again."""
        self._finish()
        self._means = StepMeans(steps)
        told = {name: shortened(str(redacted(value)), longest=_LONGEST_VALUE) for name, value in settings.items()}
        self._stage = _StageRun(stage_name(settings), {**told, "steps": str(steps)}, self._experiment)
        known = _KnownRuns(self._folder / RUNS, str(redacted(self._server)))
        self._teller = _Teller(self._server, self._complain, retry_s=self._retry_s, patience_s=self._patience_s)
        self._teller.begin(partial(self._stage.open, known, go_on=done > 0))

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell of steps, as means over neighbouring ones."""
        self._tell(step, self._means.take(step, figures), "train/")

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell of an epoch."""
        self._tell(step, finite(figures), "epoch/")

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Tell what the stage came to and send its files, and wait until the server has them or is given up."""
        if self._stage is None or self._teller is None:
            return
        self._tell(0, finite(figures), "result/")
        # Not the state, which is of use where the training goes on, and nowhere else.
        weights = [file for file in files if file.suffix == WEIGHTS]
        for file in (*weights, *self._artifacts):
            if file.is_file():
                self._teller.tell(partial(self._stage.send, file))
        stopped = sys.exc_info()[0] is not None
        self._teller.tell(partial(self._stage.close, "FAILED" if stopped else "FINISHED"))
        self._finish()

    def _tell(self, step: int, figures: Mapping[str, float], group: str) -> None:
        if self._stage is None or self._teller is None or not figures:
            return
        if self._stage.add(step, {name if "/" in name else group + name: value for name, value in figures.items()}):
            self._teller.tell(self._stage.send_figures)

    def _finish(self) -> None:
        if self._teller is not None and not self._teller.finish():
            log.warning("Not all of this training was told to the tracking server %s.", redacted(self._server))
        self._teller = None

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "The tracking server %s does not take what it is told: %s The training goes on without it, and tries "
                "again.",
                redacted(self._server),
                shortened(self._without_secrets(str(error)).strip().rstrip(".") + "."),
            )

    def _without_secrets(self, text: str) -> str:
        """The library's errors quote addresses, and parts of the server's without its host."""
        parts = urlsplit(self._server)
        for secret in (parts.query, parts.password):
            if secret:
                text = text.replace(secret, "…")
        return redacted_text(text)


class _KnownRuns:
    """Which run belongs to which stage, in a file that outlives the process."""

    def __init__(self, file: Path, server: str) -> None:
        self._file, self._server = file, server

    def find(self, stage: str) -> str | None:
        known = self._read().get(stage, {})
        return known.get("run") if known.get("server") == self._server else None

    def keep(self, stage: str, run: str) -> None:
        known = {**self._read(), stage: {"run": run, "server": self._server}}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(known, indent=1).encode())

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            known = json.loads(self._file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


class _StageRun:
    """A stage as a run of the server: what is done with the client, in the teller's thread."""

    def __init__(self, stage: str, settings: Mapping[str, str], experiment: str) -> None:
        self._stage, self._settings, self._experiment = stage, settings, experiment
        self._run = ""
        self._waiting: deque[Metric] = deque()

    def add(self, step: int, figures: Mapping[str, float]) -> bool:
        """Keep figures until they are sent; whether none waited before."""
        from mlflow.entities import Metric

        now, first = int(time.time() * 1000), not self._waiting
        self._waiting.extend(Metric(name, value, now, step) for name, value in figures.items())
        return first

    def open(self, known: _KnownRuns, client: MlflowClient, *, go_on: bool) -> None:
        """Find or create the run, and tell its settings."""
        from mlflow.entities import Param

        if not self._run:
            before = known.find(self._stage) if go_on else None
            self._run = before or self._create(client)
            known.keep(self._stage, self._run)
        client.update_run(self._run, status="RUNNING")
        client.log_batch(self._run, params=[Param(name, value) for name, value in self._settings.items()])

    def send_figures(self, client: MlflowClient) -> None:
        """Send all that waits, and forget it when the server has it."""
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(_BATCH, len(self._waiting)))]
            client.log_batch(self._run, metrics=batch)
            for _ in batch:
                self._waiting.popleft()

    def send(self, file: Path, client: MlflowClient) -> None:
        """Send a file."""
        client.log_artifact(self._run, str(file))

    def close(self, status: str, client: MlflowClient) -> None:
        """Say that the run is over. Not by `set_terminated`, which prints the server's address with its password."""
        self.send_figures(client)
        client.update_run(self._run, status=status)

    def _create(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if found is None else found.experiment_id
        return str(client.create_run(experiment, run_name=self._stage).info.run_id)


class _Teller:
    """Does one thing after the other with a tracking server, in a thread; what fails is done again later."""

    def __init__(
        self, server: str, complain: Callable[[Exception], None], *, retry_s: float, patience_s: float
    ) -> None:
        self._server, self._complain, self._retry_s, self._patience_s = server, complain, retry_s, patience_s
        self._todo: queue.Queue[Tell | None] = queue.Queue()
        self._finishing = threading.Event()
        self._failed = self._given_up = False

    def begin(self, opening: Tell) -> None:
        """Begin to tell of a run; where its opening is refused, nothing else is told of it."""
        self._thread = threading.Thread(target=self._work, args=(opening,), name="hpe-mlflow", daemon=True)
        self._thread.start()

    def tell(self, what: Tell) -> None:
        """Have something told after all that was asked for before."""
        self._todo.put(what)

    def finish(self) -> bool:
        """Wait until all is told or the server has been given up; whether all is told."""
        self._todo.put(None)
        self._finishing.set()
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.05)
            if time.monotonic() - began > (self._patience_s if self._failed else _LONGEST_S):
                self._given_up = True
                break
        return not self._given_up

    def _work(self, opening: Tell) -> None:
        try:
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=self._server)
        except Exception as error:  # noqa: BLE001 - whatever the library cannot use, the training goes on
            self._complain(error)
            self._given_up = True
            return
        if not self._do(client, opening):
            self._given_up = True
        while not self._given_up and (what := self._todo.get()) is not None:
            self._do(client, what)

    def _do(self, client: MlflowClient, what: Tell) -> bool:
        """Tell one thing, as often as it takes; False where the server does not want it."""
        while not self._given_up:
            try:
                what(client)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, the training goes on
                self._complain(error)
                if not _may_pass(error):
                    return False
                self._failed = True
                if self._finishing.wait(self._retry_s):
                    # It is soon given up: asked more often, but not without a pause.
                    time.sleep(min(1.0, self._retry_s))
            else:
                self._failed = False
                return True
        return False


def _may_pass(error: Exception) -> bool:
    """Whether the same may be taken later: not where the server has said what is wrong with it."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return not 400 <= status < 500 or status in {408, 429}
    # A file that has gone meanwhile comes back no more.
    return not isinstance(error, FileNotFoundError | ValueError | TypeError)


def _use_quietly() -> None:
    """Set what MLflow reads from the environment and nobody has set."""
    for name, value in _USUAL.items():
        os.environ.setdefault(name, value)
