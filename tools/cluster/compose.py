"""docker/compose.yaml, made of the description of the cluster."""

from __future__ import annotations

from typing import Any

import yaml

from tools.cluster.topology import REPOSITORY, Service, Topology

FILE = REPOSITORY / "docker" / "compose.yaml"

_HEAD = """\
# Made of docker/cluster.yaml by `python -m tools.cluster compose`; change that file, not this one.
#   python -m tools.cluster secrets > docker/.env     # once; no secret has a default
#   docker compose -p hpe -f docker/compose.yaml up --build
# Airflow then answers on http://127.0.0.1:8080; its user is admin.
"""

# The images' user, and the group that may write where it writes.
_UID, _GID = 50000, 0
_S3_HOME = "/data"
_STATE = "/opt/airflow/.airflow"
_CACHE = "/opt/airflow/.hpe"
_AWS_CONFIG = "/etc/hpe/aws.ini"

_ASK_HEALTH = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}{path}', timeout=5)"
_MAKE_BUCKET = (
    "import boto3; s3 = boto3.client('s3'); s3.create_bucket(Bucket='{bucket}'); "
    "s3.put_bucket_versioning(Bucket='{bucket}', VersioningConfiguration={{'Status': 'Enabled'}})"
)


# A key that each of the parts that are shared has, and no other one.
_MARKS = {"environment": "AIRFLOW__CORE__EXECUTOR", "hardening": "cap_drop", "airflow": "environment"}


class _Merge:
    """The key `<<` of YAML, which takes over what an anchor holds."""

    __hash__ = object.__hash__


class _Dumper(yaml.SafeDumper):
    """Shows each shared part once, under its name."""

    names: dict[int, str]

    def generate_anchor(self, node: yaml.Node) -> str:
        """The name of a shared part."""
        return next(kind for kind in _MARKS if _is(kind, node))


def _is(kind: str, node: yaml.Node) -> bool:
    keys = {key.value for key, _ in node.value} if isinstance(node, yaml.MappingNode) else set()
    return _MARKS[kind] in keys


def _represent_merge(dumper: yaml.SafeDumper, _: _Merge) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:merge", "<<")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Long commands as blocks; all else as YAML has it.
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(_Merge, _represent_merge)
_Dumper.add_representer(str, _represent_text)


def secret(name: str) -> str:
    """A secret as compose looks it up: in the environment or docker/.env, and without a default."""
    return f"${{{name}:?is not set}}"


def compose(topology: Topology) -> dict[Any, Any]:
    """The compose file's content."""
    places = {name: f"{name}:{service.port}" for name, service in topology.services.items()}
    environment = topology.filled(places | {name: secret(name) for name in topology.secrets})
    environment |= {
        "AIRFLOW__API__HOST": "0.0.0.0",
        # Buckets as a path: there is no host hpe-models.s3.
        "AWS_CONFIG_FILE": _AWS_CONFIG,
        "HPE_CACHE": f"{_CACHE}/cache",
        # What builds the function's package keeps downloads there.
        "XDG_CACHE_HOME": f"{_CACHE}/xdg",
    }
    hardening = {
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
    }
    airflow = {
        _Merge(): hardening,
        "image": "hpe-airflow",
        "build": _build("airflow"),
        "user": f"{_UID}:{_GID}",
        "environment": environment,
        "configs": [{"source": "aws", "target": _AWS_CONFIG}],
        "tmpfs": ["/tmp:exec,mode=1777", f"{_STATE}:uid={_UID},gid={_GID},mode=0770"],
    }
    made = {"prepare": _prepare(topology, airflow)}
    for name, service in topology.services.items():
        made[name] = _server(name, service, hardening) or _airflow(name, service, topology, airflow)
    volumes = sorted({volume.partition(":")[0] for one in made.values() for volume in one.get("volumes", ())})
    return {
        "x-hardening": hardening,
        "x-environment": environment,
        "x-airflow": airflow,
        "services": {name: made[name] for name in (*topology.services, "prepare")},
        "configs": {"aws": {"file": "./aws.ini"}},
        "volumes": {volume: {} for volume in volumes},
    }


def _build(image: str) -> dict[str, Any]:
    return {
        "context": "..",
        "dockerfile": f"docker/{image}/Dockerfile",
        "args": {"GIT_COMMIT": "${GIT_COMMIT:-}"},
    }


def _health(*test: str, interval: str = "10s", start: str = "60s") -> dict[str, Any]:
    return {"test": list(test), "interval": interval, "timeout": "30s", "retries": 5, "start_period": start}


def _ask(port: int, path: str) -> dict[str, Any]:
    return _health("CMD", "python", "-c", _ASK_HEALTH.format(port=port, path=path))


def _after(*done: str, **conditions: str) -> dict[str, Any]:
    return {name: {"condition": "service_healthy"} for name in done} | {
        name: {"condition": condition} for name, condition in conditions.items()
    }


def _prepare(topology: Topology, airflow: dict[Any, Any]) -> dict[Any, Any]:
    pools = [f'airflow pools set {name} {slots} "One slot for each GPU"' for name, slots in topology.pools.items()]
    script = ["airflow db migrate", *pools, f'python -c "{_MAKE_BUCKET.format(bucket=topology.bucket)}"', ""]
    return {
        _Merge(): airflow,
        "entrypoint": ["sh", "-euc"],
        "command": ["\n".join(script)],
        "depends_on": _after("postgres", "s3"),
        "restart": "no",
    }


def _server(name: str, service: Service, hardening: dict[str, Any]) -> dict[Any, Any]:
    """A server that is not Airflow's; empty for another service."""
    if service.kind == "postgres":
        return {
            _Merge(): hardening,
            "image": "postgres:15-bookworm",
            "user": "postgres",
            "environment": {
                "POSTGRES_USER": "airflow",
                "POSTGRES_DB": "airflow",
                "POSTGRES_PASSWORD": secret("POSTGRES_PASSWORD"),
            },
            "volumes": [f"{name}:/var/lib/postgresql/data"],
            "tmpfs": ["/tmp:mode=1777", "/var/run/postgresql:mode=1777"],
            "healthcheck": _health("CMD", "pg_isready", "--username=airflow", "--dbname=airflow"),
        }
    if service.kind == "redis":
        # In a file, as a command line can be read by others; what was queued is there again after a restart.
        script = (
            "umask 077\n"
            'printf \'requirepass %s\\nappendonly yes\\nsave ""\\ndir /data\\n\' "$$REDISCLI_AUTH" > /tmp/redis.conf\n'
            "exec redis-server /tmp/redis.conf\n"
        )
        return {
            _Merge(): hardening,
            "image": "redis:7-bookworm",
            "user": "redis",
            "entrypoint": ["sh", "-euc"],
            "command": [script],
            # By this name redis-cli takes it, too.
            "environment": {"REDISCLI_AUTH": secret("REDIS_PASSWORD")},
            "volumes": [f"{name}:/data"],
            "tmpfs": ["/tmp:mode=1777"],
            "healthcheck": _health("CMD-SHELL", "redis-cli ping | grep -q PONG"),
        }
    if service.kind == "s3":
        return {
            _Merge(): hardening,
            "image": "hpe-object-store",
            "build": _build("object-store"),
            "user": f"{_UID}:{_GID}",
            "environment": {
                "GATEWAY_PORT": str(service.port),
                "HPE_ANSWERS_AS": name,
                "AWS_ACCESS_KEY_ID": secret("S3_ACCESS_KEY_ID"),
                "AWS_SECRET_ACCESS_KEY": secret("S3_SECRET_ACCESS_KEY"),
            },
            "volumes": [f"{name}:{_S3_HOME}"],
            "tmpfs": ["/tmp:mode=1777"],
            "healthcheck": _ask(service.port, "/_ministack/health"),
        }
    return {}


def _airflow(name: str, service: Service, topology: Topology, airflow: dict[Any, Any]) -> dict[Any, Any]:
    """An Airflow service."""
    made: dict[Any, Any] = {_Merge(): airflow}
    before = {"prepare": "service_completed_successfully"}
    if service.kind == "worker":
        made |= {"image": "hpe-worker", "build": _build("worker")}
        made["volumes"] = [f"{name}:{_CACHE}"]
        # Asked to stop, a worker ends its task first.
        made["stop_grace_period"] = "10m"
        ping = "celery --app airflow.providers.celery.executors.celery_executor.app inspect ping -d celery@$$HOSTNAME"
        made["healthcheck"] = _health("CMD-SHELL", ping, interval="60s")
        if service.gpus:
            devices = [{"driver": "nvidia", "count": service.gpus, "capabilities": ["gpu"]}]
            made["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    elif service.job:
        check = f'airflow jobs check --job-type {service.job} --hostname "$$HOSTNAME"'
        made["healthcheck"] = _health("CMD-SHELL", check, interval="60s")
    if name == "api-server":
        user = topology.user
        script = (
            "umask 077\n"
            f'printf \'{{"{user}": "%s"}}\' "$$AIRFLOW_ADMIN_PASSWORD" > {_STATE}/passwords.json\n'
            f"exec airflow {' '.join(service.arguments)}\n"
        )
        made |= {"entrypoint": ["sh", "-euc"], "command": [script]}
        # Of this service alone: the others have no use for it.
        admin = {"AIRFLOW_ADMIN_PASSWORD": secret("AIRFLOW_ADMIN_PASSWORD")}
        made["environment"] = {_Merge(): airflow["environment"], **admin}
        made["ports"] = [f"127.0.0.1:{service.port}:{service.port}"]
        made["healthcheck"] = _ask(service.port, "/api/v2/version")
        made["depends_on"] = _after("postgres", "redis", "s3", **before)
        return made
    made["command"] = list(service.arguments)
    made["depends_on"] = _after("postgres", "redis", "s3", "api-server", **before)
    return made


def compose_text(topology: Topology) -> str:
    """docker/compose.yaml, as it is written."""
    content = yaml.dump(compose(topology), Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True)
    return _HEAD + "\n" + content
