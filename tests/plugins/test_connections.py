from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hpe_airflow.connections import (
    client_options,
    key_of,
    s3_client,
    signing_key,
    use_web_connections,
    web_credentials_of,
)

from hpe_tasks.config.web_credentials import WebCredentials
from hpe_tasks.data.fetch.download import fetch_file
from hpe_tasks.errors import ConfigError
from hpe_tasks.registry.signing import SigningKey
from support.faulty_server import serve
from support.no_s3 import no_s3
from support.signing_keys import key_pem


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


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(lambda pem: {"password": pem}, id="password"),
        pytest.param(lambda pem: {"password": pem.replace("\n", " ")}, id="pasted into a field of one line"),
        pytest.param(lambda pem: {"password": pem.replace("\n", "")}, id="its line ends lost"),
        pytest.param(lambda pem: {"password": pem.replace("\n", "\\n")}, id="its line ends escaped"),
        pytest.param(lambda pem: {"extra": json.dumps({"private_key": pem})}, id="extra"),
    ],
)
def test_a_connection_holds_the_signing_key(fields: Any) -> None:
    pem = key_pem()
    held = key_of(connection(conn_type="generic", **fields(pem.decode())))
    assert SigningKey(held).public_bytes == SigningKey(pem).public_bytes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({}, "holds no key", id="nothing"),
        pytest.param({"extra": '{"private_key": ""}'}, "holds no key", id="empty"),
        pytest.param({"password": "hunter2"}, "not a private key in PEM", id="a password"),
    ],
)
def test_a_connection_without_a_signing_key_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        key_of(connection(conn_type="generic", **fields))


@pytest.mark.usefixtures("airflow_database")
def test_the_signing_key_is_that_of_the_connection_or_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_HPE_SIGNING", raising=False)
    monkeypatch.delenv("HPE_SIGNING_KEY", raising=False)
    assert signing_key() is None
    in_file, in_connection = key_pem(), key_pem()
    (tmp_path / "key.pem").write_bytes(in_file)
    monkeypatch.setenv("HPE_SIGNING_KEY", str(tmp_path / "key.pem"))
    assert signing_key() == in_file
    monkeypatch.setenv(
        "AIRFLOW_CONN_HPE_SIGNING", json.dumps({"conn_type": "generic", "password": in_connection.decode()})
    )
    assert signing_key() == in_connection


HOST = "data.example.org"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        pytest.param({"login": "ada", "password": "p"}, {"login": "ada", "password": "p"}, id="login and password"),
        pytest.param(
            {"extra": '{"Authorization": "Bearer t"}'}, {"headers": {"Authorization": "Bearer t"}}, id="a token"
        ),
        pytest.param({"schema": "http", "port": 8080}, {"scheme": "http", "port": 8080}, id="another port, no TLS"),
        pytest.param({"host": f"http://{HOST}:8080"}, {"scheme": "http", "port": 8080}, id="an address as host"),
        pytest.param({"host": HOST.upper()}, {}, id="in capitals"),
    ],
)
def test_a_connection_says_what_a_web_server_is_told(fields: dict[str, Any], told: dict[str, Any]) -> None:
    found = web_credentials_of(connection(**{"conn_type": "http", "host": HOST, **fields}), HOST)
    assert found == WebCredentials(host=HOST, **told)
    assert "Bearer" not in repr(found)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"conn_type": "aws"}, "aws", id="another type"),
        pytest.param({"host": "data-example.org"}, "data-example.org", id="a server whose connection is called alike"),
        pytest.param({"host": ""}, r"\(none\)", id="no server"),
        pytest.param({"extra": '{"verify": false}'}, "verify", id="no header"),
    ],
)
def test_a_connection_for_something_else_than_the_server_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        web_credentials_of(connection(**{"conn_type": "http", "host": HOST, **fields}), HOST)


@pytest.mark.usefixtures("airflow_database")
def test_a_fetch_tells_the_server_what_its_connection_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(b"weights") as site:
        held = {"conn_type": "http", "host": site.address, "extra": {"Authorization": "Bearer t"}}
        monkeypatch.setenv("AIRFLOW_CONN_HPE_WEB_127_0_0_1", json.dumps(held))
        use_web_connections()
        address, other = f"{site.address}/a", f"{site.address}/b".replace("127.0.0.1", "localhost")
        for source in (address, other):
            fetch_file(source, tmp_path, sha256=None, s3=no_s3, allow_private_addresses=True)
        assert site.headers_sent("Authorization") == ["Bearer t", None]
