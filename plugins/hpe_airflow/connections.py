"""S3 clients, the signing key and credentials of web servers from Airflow connections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hpe_tasks.config import web_credentials
from hpe_tasks.config.environment import Settings
from hpe_tasks.config.web_credentials import WebCredentials
from hpe_tasks.errors import ConfigError
from hpe_tasks.storage.s3 import make_client

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from mypy_boto3_s3 import S3Client

S3_CONNECTION = "hpe_s3"
SIGNING_CONNECTION = "hpe_signing"
WEB_CONNECTION = "hpe_web_"
"""Begins the names of connections for web servers; the server's name follows, `_` in place of dots and hyphens."""

_EXTRAS = ("endpoint_url", "region_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def s3_client() -> S3Client:
    """The client for data, checkpoints and the registry.

    Its endpoint and credentials come from the connection `hpe_s3` (type `aws`), or from the usual AWS variables and
    files where Airflow knows no such connection.
    """
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = Connection.get(S3_CONNECTION)
    except AirflowNotFoundException:
        return make_client()
    return make_client(**client_options(connection))


def client_options(connection: Connection) -> dict[str, Any]:
    """What a connection says about an S3 client, in the words of `make_client`.

    Args:
        connection: Of type `aws`: the key id as login, the secret as password, and in the extra `endpoint_url`,
            `region_name` and `aws_session_token` as needed; an address in the host field is an endpoint as well.

    Raises:
        ConfigError: The connection is of another type, or asks for something that would be ignored.
    """
    if connection.conn_type != "aws":
        raise ConfigError(
            f"The Airflow connection {connection.conn_id!r} is of type {connection.conn_type!r}.",
            hint="Give it the type `aws`.",
        )
    extra = dict(connection.extra_dejson)
    # The form of Amazon's provider writes its fields with nothing in them.
    unknown = sorted(key for key, value in extra.items() if key not in _EXTRAS and value not in (None, "", {}, []))
    if unknown:
        raise ConfigError(
            f"The extra of the Airflow connection {connection.conn_id!r} holds {', '.join(unknown)}: it is not used.",
            hint=f"Use only {', '.join(_EXTRAS)}.",
        )
    stated = {
        "endpoint_url": connection.host,
        "aws_access_key_id": connection.login,
        "aws_secret_access_key": connection.password,
    }
    return {key: value for key in _EXTRAS if (value := extra.get(key) or stated.get(key))}


def signing_key() -> bytes | None:
    """The private key that published manifests are signed with, in PEM; None without one.

    It comes from the connection `hpe_signing`, or from the file that HPE_SIGNING_KEY names where Airflow knows no such
    connection.

    Raises:
        ConfigError: The connection holds no key, or the file cannot be read.
    """
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = Connection.get(SIGNING_CONNECTION)
    except AirflowNotFoundException:
        return Settings.from_environment().read_signing_key()
    return key_of(connection)


_PEM = re.compile(r"(-----BEGIN [A-Z ]+-----)(.+)(-----END [A-Z ]+-----)", re.DOTALL)


def key_of(connection: Connection) -> bytes:
    """The key that a connection holds: its password, or `private_key` in its extra.

    The form's password field is a single line, and a connection in a variable may hold its line ends escaped: they are
    put back.

    Raises:
        ConfigError: It holds none, or something else than PEM.
    """
    text = connection.password or str(connection.extra_dejson.get("private_key") or "")
    if not text:
        raise ConfigError(
            f"The Airflow connection {connection.conn_id!r} holds no key.",
            hint="Put the private key in PEM into its password, or as `private_key` into its extra.",
        )
    found = _PEM.search(text.replace("\\n", "\n"))
    if found is None:
        raise ConfigError(
            f"What the Airflow connection {connection.conn_id!r} holds is not a private key in PEM.",
            hint="Give the whole text of the key's file, with its first and last line.",
        )
    first, body, last = (part.strip() for part in found.groups())
    return "\n".join((first, *body.split(), last, "")).encode()


def use_web_connections() -> None:
    """From now on web servers that this process fetches from are told what Airflow's connections hold for them."""
    web_credentials.register(credentials_of_server)


def credentials_of_server(host: str) -> WebCredentials | None:
    """What a web server is told according to Airflow's connection for it; None where there is no such connection.

    Args:
        host: The server's name, such as `data.example.org`: its connection is `hpe_web_data_example_org`.

    Raises:
        ConfigError: The connection is of another type, for another server, or asks for something that is not done.
    """
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = Connection.get(WEB_CONNECTION + re.sub(r"[^a-z0-9]", "_", host.lower()))
    except AirflowNotFoundException:
        return None
    return web_credentials_of(connection, host.lower())


def web_credentials_of(connection: Connection, host: str) -> WebCredentials:
    """What a connection says that a web server is told.

    Args:
        connection: Of type `http`: the server as host, with login and password, or headers in the extra, or both. It
            holds for https, unless its schema is `http`.
        host: The server that is asked.

    Raises:
        ConfigError: See credentials_of_server.
    """
    name = connection.conn_id
    if connection.conn_type != "http":
        raise ConfigError(
            f"The Airflow connection {name!r} is of type {connection.conn_type!r}.", hint="Give it the type `http`."
        )
    stated = str(connection.host or "")
    parts = urlsplit(stated if "://" in stated else f"//{stated}")
    if parts.hostname != host:
        raise ConfigError(
            f"The Airflow connection {name!r} is for the server {parts.hostname or '(none)'}, and {host} is asked.",
            hint=f"Its name is that of credentials for {host}: write {host} as its host, or rename it.",
        )
    headers = connection.extra_dejson
    wrong = sorted(key for key, value in headers.items() if not isinstance(value, str))
    if wrong:
        raise ConfigError(
            f"The extra of the Airflow connection {name!r} holds {', '.join(wrong)}, which is not a header.",
            hint='Use only headers with their texts, such as {"Authorization": "Bearer …"}.',
        )
    return WebCredentials(
        host=host,
        scheme=str(connection.schema or parts.scheme or "https").lower(),
        port=connection.port or parts.port,
        login=str(connection.login or ""),
        password=str(connection.password or ""),
        headers=headers,
    )
