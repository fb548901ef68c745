"""`hpe models` and the reading of many manifests, on the embedded S3 server."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpe_tasks.catalogue.index import list_versions
from hpe_tasks.catalogue.reading import ManySmallObjects
from hpe_tasks.cli.app import app
from hpe_tasks.errors import AccessError, BadInputError
from hpe_tasks.local.object_store import Server
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location, make_client
from hpe_tasks.storage.s3_requests import counting_requests
from support import sample_records as records

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("command-line")]

Hpe = Callable[..., Any]


@pytest.fixture(scope="module")
def root(s3_server: Server) -> S3Location:
    return S3Location(s3_server.bucket, "catalogue/registry")


@pytest.fixture(scope="module")
def versions(s3_server: Server, root: S3Location, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two versions, of which the second is the faster one; staging serves it and has served the first."""
    folder, registry = tmp_path_factory.mktemp("versions"), ModelRegistry(s3_server.client(), root, actor="ada")
    stored = []
    for content, ap, ratio in (("one", 0.60, 2.5), ("two", 0.65, 3.5)):
        files = records.write_files(folder / content, content)
        version = registry.store(records.manifest(files, ap=ap, speed=records.latency(ratio)), files).version
        registry.promote("pose", version, "staging")
        stored.append(version)
    return stored[0], stored[1]


@pytest.fixture
def hpe(
    s3_server: Server, root: S3Location, versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Hpe:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HPE_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "170")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["models", *arguments, "--registry", str(root)])

    return run


def rows_of(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    listed: list[dict[str, Any]] = json.loads(result.stdout)
    return listed


def test_a_version_is_shown_as_table_json_and_csv_and_has_a_card(
    hpe: Hpe, versions: tuple[str, str], tmp_path: Path
) -> None:
    assert versions[1] in hpe("show", "pose@staging").stdout
    assert json.loads(hpe("show", "pose@staging", "--json").stdout)["version"] == versions[1]
    (row,) = csv.DictReader(io.StringIO(hpe("show", "pose@staging", "--csv").stdout))
    assert (row["version"], row["channels"], float(row["int8"])) == (versions[1], "staging", 0.65)
    assert isinstance(hpe("show", "pose", "--json", "--csv").exception, BadInputError)
    card = hpe("card", "pose@staging")
    assert card.exit_code == 0, card.output
    assert card.stdout.startswith("---\n")
    assert versions[1] in card.stdout
    file = tmp_path / "README.md"
    assert hpe("card", "pose@staging", "--out", str(file)).exit_code == 0
    assert file.read_text() == card.stdout


def test_lists_are_tables_json_and_csv(hpe: Hpe, versions: tuple[str, str]) -> None:
    listed = rows_of(hpe("list", "--sort", "accuracy", "--reverse", "--json"))
    assert [row["version"] for row in listed] == list(versions)
    assert [row["channels"] for row in listed] == [[], ["staging"]]
    (served,) = csv.DictReader(io.StringIO(hpe("list", "pose", "--served", "--csv").stdout))
    assert (served["version"], served["channels"], float(served["speed_up"])) == (versions[1], "staging", 3.5)
    table = hpe("list").stdout
    assert all(text in table for text in (*versions, "staging", "0.650", "3.5×", "AMD EPYC 9R14"))
    assert rows_of(hpe("list", "--search", "nothing has this", "--json")) == []
    assert isinstance(hpe("list", "other").exception, AccessError)
    assert isinstance(hpe("list", "--json", "--csv").exception, BadInputError)


def test_a_version_is_shown_and_compared(hpe: Hpe, versions: tuple[str, str]) -> None:
    shown = hpe("show", "pose").stdout
    assert all(text in shown for text in (versions[1], "Accuracy of the exported file", "left_wrist", "encodings"))
    assert json.loads(hpe("show", versions[0], "--json").stdout)["version"] == versions[0]
    compared = hpe("compare", f"pose@{versions[0]}", "pose@staging").stdout
    assert all(text in compared for text in ("AP, int8", "0.600", "0.650"))
    found = list(csv.DictReader(io.StringIO(hpe("compare", *versions, "--csv").stdout)))
    accuracy = next(row for row in found if row["row"] == "AP, int8")
    assert [float(accuracy[f"pose@{version}"]) for version in versions] == [0.6, 0.65]


def test_versions_are_retired_channels_pinned_and_the_log_tells(hpe: Hpe, versions: tuple[str, str]) -> None:
    first, second = versions
    assert isinstance(hpe("retire", "pose", second).exception, BadInputError)
    assert hpe("retire", "pose", first, "--note", "too slow").exit_code == 0
    assert [row["version"] for row in rows_of(hpe("list", "--json"))] == [second]
    assert {row["retired"] for row in rows_of(hpe("list", "--retired", "--json"))} == {True, False}
    assert isinstance(hpe("rollback", "pose").exception, BadInputError)
    assert hpe("retire", "pose", first, "--undo").exit_code == 0
    assert hpe("pin", "pose").exit_code == 0
    assert isinstance(hpe("promote", "pose", first).exception, BadInputError)
    assert hpe("pin", "pose", "--undo").exit_code == 0
    assert hpe("promote", "pose", first, "--note", "back for a day").exit_code == 0
    assert hpe("rollback", "pose").exit_code == 0
    assert hpe("annotate", "pose", second, "seen in the demo").exit_code == 0
    log = rows_of(hpe("log", "pose", "--json", "--limit", "3"))
    assert [row["action"] for row in log] == ["annotate", "rollback", "promote"]
    assert (log[0]["note"], log[2]["note"]) == ("seen in the demo", "back for a day")


def test_manifests_are_read_by_signed_addresses_and_by_boto3_where_those_are_refused(
    s3_server: Server, root: S3Location, versions: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_server.client()
    with counting_requests() as quick:
        found = list_versions(client, root, tmp_path / "quick")
    assert {row.version for row in found.versions} == set(versions)
    assert (found.read_anew, quick.attempts["GetObject"]) == (3, 0)

    monkeypatch.setattr(client, "generate_presigned_url", lambda *_, **__: f"{s3_server.endpoint}/nowhere/at/all?x=1")
    with counting_requests() as slow:
        again = list_versions(client, root, tmp_path / "slow")
    assert (again.versions, slow.attempts["GetObject"]) == (found.versions, 3)

    monkeypatch.setattr(client, "generate_presigned_url", lambda *_, **__: "http://127.0.0.1:9/closed")
    assert list_versions(client, root, tmp_path / "closed").versions == found.versions


def test_aws_itself_is_asked_by_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(
        aws_access_key_id="x", aws_secret_access_key="y", region_name="eu-central-1", endpoint_url=None
    )
    monkeypatch.setattr(client, "generate_presigned_url", pytest.fail)
    asked: list[str] = []
    monkeypatch.setattr("hpe_tasks.catalogue.reading.get_bytes", lambda _, where, __: asked.append(str(where)))
    assert ManySmallObjects(client).read(S3Location("bucket", "key")) is None
    assert asked == ["s3://bucket/key"]


def test_the_registry_is_that_of_the_environment_unless_one_is_named(
    hpe: Hpe, root: S3Location, versions: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HPE_REGISTRY, as Airflow's pages take it."""
    monkeypatch.setenv("HPE_REGISTRY", str(root))
    found = CliRunner().invoke(app, ["models", "list", "--json"])
    assert found.exit_code == 0, found.output
    assert {row["version"] for row in json.loads(found.output)} >= set(versions)
    monkeypatch.setenv("HPE_REGISTRY", "s3://not-there/registry")
    assert hpe("list", "--json").exit_code == 0, "--registry wins"
