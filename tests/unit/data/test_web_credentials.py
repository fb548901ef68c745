"""Servers are told the credentials that are registered for them, and nobody else is; with real servers on loopback."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.web_credentials import WebCredentials, register
from hpe_tasks.data.fetch import fetch_dataset
from hpe_tasks.data.fetch.download import fetch_file
from hpe_tasks.errors import AccessError, ConfigError
from support.coco_factory import CALIBRATION, EVALUATION, edited, write_coco
from support.faulty_server import Mood, Site, serve
from support.no_s3 import no_s3


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(b"weights") as site:
        yield site


@pytest.fixture
def other() -> Iterator[Site]:
    """Another server, by another name."""
    with serve(b"weights from elsewhere") as site:
        site.address = site.address.replace("127.0.0.1", "localhost")
        yield site


def told(site: Site, **fields: Any) -> None:
    """Register what a server is told."""
    parts = urlsplit(site.address)
    known = WebCredentials(**{"host": parts.hostname, "scheme": "http", "port": parts.port, **fields})
    register(lambda host: known if host == known.host else None)


def fetch(source: str, folder: Path) -> bytes:
    return fetch_file(source, folder, sha256=None, s3=no_s3, allow_private_addresses=True).read_bytes()


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def test_login_and_headers_go_to_their_server(site: Site, other: Site, tmp_path: Path) -> None:
    told(site, login="ädä", password="p:w", headers={"X-Token": "t"})
    fetch(f"{site.address}/a", tmp_path)
    assert site.headers_sent("Authorization") == [basic("ädä:p:w")]
    assert site.headers_sent("X-Token") == ["t"]
    fetch(f"{other.address}/b", tmp_path)
    assert other.headers_sent("Authorization") == other.headers_sent("X-Token") == [None]


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "with credentials of its own"])
def test_where_a_server_redirects_to_is_not_told_them(site: Site, other: Site, tmp_path: Path, known: bool) -> None:
    told(site, login="ada", password="p", headers={"X-Token": "t", "X-First": "1"})
    if known:
        told(other, headers={"Authorization": "Bearer other", "X-Token": "u"})
    site.moods.append(Mood(status=302, headers={"Location": f"{other.address}/there"}))
    assert fetch(f"{site.address}/a", tmp_path) == b"weights from elsewhere"
    assert site.headers_sent("X-Token") == ["t"]
    assert other.headers_sent("Authorization") == ["Bearer other" if known else None]
    assert other.headers_sent("X-Token") == ["u" if known else None]
    assert other.headers_sent("X-First") == [None]


def test_another_path_of_the_same_server_is_told_them(site: Site, tmp_path: Path) -> None:
    told(site, headers={"Authorization": "Bearer t"})
    site.moods.append(Mood(status=302, headers={"Location": "/there"}))
    assert fetch(f"{site.address}/a", tmp_path) == b"weights"
    assert site.headers_sent("Authorization") == ["Bearer t", "Bearer t"]


@pytest.mark.parametrize(
    "fields", [{"scheme": "https"}, {"port": 9}, {"port": None}], ids=["for TLS only", "another port", "its usual port"]
)
def test_nothing_is_told_in_another_way_than_agreed(site: Site, tmp_path: Path, fields: dict[str, Any]) -> None:
    told(site, login="ada", password="p", **fields)
    fetch(f"{site.address}/a", tmp_path)
    assert site.headers_sent("Authorization") == [None]


def test_what_an_address_carries_itself_comes_first(site: Site, tmp_path: Path) -> None:
    told(site, headers={"Authorization": "Bearer t"})
    fetch(f"{site.address}/a".replace("://", "://eve:own@"), tmp_path)
    assert site.headers_sent("Authorization") == [basic("eve:own")]


def test_they_come_before_those_of_netrc(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password lovelace\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    told(site, headers={"Authorization": "Bearer t"})
    fetch(f"{site.address}/a", tmp_path)
    assert site.headers_sent("Authorization") == ["Bearer t"]


def test_images_are_fetched_with_them(site: Site, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco")
    for split in (CALIBRATION, EVALUATION):
        with edited(root, split) as content:
            for row in content["images"]:
                row["coco_url"] = f"{site.address}/{row['file_name']}"
    site.files = {f"/{path.name}": path.read_bytes() for path in root.glob("images/*/*")}
    told(site, headers={"Authorization": "Bearer t"})
    config = DatasetConfig(source=str(root), images_by_url=True, allow_private_addresses=True)
    fetch_dataset(config, tmp_path / "cache", no_s3)
    assert set(site.headers_sent("Authorization")) == {"Bearer t"}


def test_they_are_in_no_error(site: Site, tmp_path: Path) -> None:
    told(site, login="ada", password="hunter2", headers={"X-Token": "s3cr3t"})
    site.moods.append(Mood(status=403))
    with pytest.raises(AccessError) as caught:
        fetch(f"{site.address}/a", tmp_path)
    assert not {"hunter2", "s3cr3t"} & set(str(caught.value).split())


def test_a_source_that_is_wrong_is_told_as_such(site: Site, tmp_path: Path) -> None:
    def broken(_: str) -> None:
        raise ConfigError("The connection is for another server.")

    register(broken)
    with pytest.raises(ConfigError, match="another server"):
        fetch(f"{site.address}/a", tmp_path)
    assert site.requests == []
