"""S3 clients and the signing key from Airflow connections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import ConfigError
from hpe_tasks.storage.s3 import make_client

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from mypy_boto3_s3 import S3Client

S3_CONNECTION = "hpe_s3"
SIGNING_CONNECTION = "hpe_signing"

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
