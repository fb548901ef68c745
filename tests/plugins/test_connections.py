from __future__ import annotations

from typing import Any

import pytest
from hpe_airflow.connections import client_options, s3_client

from hpe_tasks.errors import ConfigError


def connection(**fields: Any) -> Any:
    from airflow.sdk import Connection

    return Connection(conn_id="hpe_s3", **{"conn_type": "aws", **fields})


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        pytest.param({}, {}, id="empty: the machine's own role"),
        pytest.param(
            {"login": "key", "password": "secret"},
            {"aws_access_key_id": "key", "aws_secret_access_key": "secret"},
            id="login and password",
        ),
        pytest.param(
            {"extra": '{"endpoint_url": "http://store:9000", "region_name": "eu-west-1", "aws_session_token": "t"}'},
            {"endpoint_url": "http://store:9000", "region_name": "eu-west-1", "aws_session_token": "t"},
            id="extra",
        ),
        pytest.param(
            {"login": "key", "extra": '{"aws_access_key_id": "other"}'},
            {"aws_access_key_id": "other"},
            id="extra before login",
        ),
        pytest.param({"host": "http://store:9000"}, {"endpoint_url": "http://store:9000"}, id="endpoint as host"),
        pytest.param({"extra": '{"role_arn": "", "config_kwargs": {}}'}, {}, id="empty fields of the form"),
    ],
)
def test_a_connection_says_how_to_reach_s3(fields: dict[str, Any], options: dict[str, str]) -> None:
    assert client_options(connection(**fields)) == options


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"conn_type": "http"}, "http", id="another type"),
        pytest.param({"extra": '{"role_arn": "arn:aws:iam::1:role/x"}'}, "role_arn", id="what would be ignored"),
    ],
)
def test_a_connection_that_means_something_else_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        client_options(connection(**fields))


@pytest.mark.usefixtures("airflow_database")
def test_the_client_follows_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_HPE_S3",
        '{"conn_type": "aws", "login": "k", "password": "s", '
        '"extra": {"endpoint_url": "http://127.0.0.1:9", "region_name": "eu-west-1"}}',
    )
    assert s3_client().meta.endpoint_url == "http://127.0.0.1:9"
    assert s3_client().meta.region_name == "eu-west-1"


@pytest.mark.usefixtures("airflow_database")
def test_without_the_connection_the_usual_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_HPE_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:10")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert s3_client().meta.endpoint_url == "http://127.0.0.1:10"
