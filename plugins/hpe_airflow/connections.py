"""S3 clients from Airflow connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpe_tasks.errors import ConfigError
from hpe_tasks.s3 import make_client

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from mypy_boto3_s3 import S3Client

S3_CONNECTION = "hpe_s3"

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
