"""What docker/cluster.yaml says: the services of a cluster, and what Airflow's are told."""

from __future__ import annotations

import base64
import re
import secrets as random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

REPOSITORY = Path(__file__).resolve().parents[2]
DESCRIPTION = REPOSITORY / "docker" / "cluster.yaml"

GPU_POOL = "gpu_pool"
AIRFLOW_KINDS = {"airflow", "worker"}
_PLACE = re.compile(r"\{([\w-]+)\}")
_FERNET = "AIRFLOW_FERNET_KEY"


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Service(_Described):
    """One service.

    Attributes:
        kind: What runs: a server that is not ours, an Airflow service, or a Celery worker.
        port: That it listens on; 0 for none.
        command: Arguments of `airflow`, for the kind `airflow`.
        job: Kind of the job that it reports to the database, by which its health is asked.
        queues: That a worker serves.
        concurrency: Tasks that a worker runs at once.
        gpus: That a worker has.
    """

    kind: Literal["postgres", "redis", "s3", "airflow", "worker"]
    port: int = Field(default=0, ge=0, le=65535)
    command: tuple[str, ...] = ()
    job: str = ""
    queues: tuple[str, ...] = ()
    concurrency: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)

    @property
    def is_airflow(self) -> bool:
        """Whether it runs our images, with the environment of all Airflow services."""
        return self.kind in AIRFLOW_KINDS

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of `airflow`."""
        if self.kind == "worker":
            return ("celery", "worker", "--queues", ",".join(self.queues), "--concurrency", str(self.concurrency))
        return self.command


class Topology(_Described):
    """All of it.

    Attributes:
        secrets: What each is for, by its name.
        bucket: Holds workspace, registry and logs; made at the start.
        user: Who may log in.
        environment: Of every Airflow service, with places for addresses and secrets.
        services: By name.
    """

    secrets: dict[str, str]
    bucket: str
    user: str
    environment: dict[str, str]
    services: dict[str, Service]

    @model_validator(mode="after")
    def _places_are_known(self) -> Topology:
        listening = {name for name, service in self.services.items() if service.port}
        for name, text in self.environment.items():
            unknown = set(_PLACE.findall(text)) - listening - self.secrets.keys()
            if unknown:
                raise ValueError(
                    f"{name} names {', '.join(sorted(unknown))}: neither a service with a port nor a secret"
                )
        return self

    @property
    def pools(self) -> dict[str, int]:
        """Slots of the pools that tasks ask for: one for each GPU, or one for a worker that does it on its CPU."""
        return {GPU_POOL: sum(service.gpus for service in self.services.values()) or 1}

    def serving(self, queues: Mapping[str, str]) -> Topology:
        """The topology whose workers serve other queues, given with commas between them."""
        changed = {
            name: self.services[name].model_copy(update={"queues": tuple(named.split(","))})
            for name, named in queues.items()
        }
        return self.model_copy(update={"services": self.services | changed})

    def filled(self, places: Mapping[str, str]) -> dict[str, str]:
        """The environment of Airflow services with addresses and secrets in their places."""
        return {name: _PLACE.sub(lambda found: places[found[1]], text) for name, text in self.environment.items()}


def read_topology(file: Path = DESCRIPTION) -> Topology:
    """The description; raises pydantic's ValidationError where it does not say what it should."""
    return Topology.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def new_secrets(topology: Topology) -> dict[str, str]:
    """A random value for each secret, which may stand in an address as it is."""
    return {
        name: base64.urlsafe_b64encode(random.token_bytes(32)).decode() if name == _FERNET else random.token_urlsafe(48)
        for name in topology.secrets
    }
