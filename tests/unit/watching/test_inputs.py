"""That content decides, and that an address is asked before anything is fetched from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.run import RunConfig
from hpe_tasks.records.watch import MadeOf
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.watching.inputs import made_of_now
from support.faulty_server import Site, serve
from support.no_s3 import no_s3
from support.played_s3 import client, moto_client
from support.watched_versions import watched_config

__all__ = ["client", "moto_client"]


def made(config: RunConfig, folder: Path, machine: str = "one", s3: Any = no_s3) -> MadeOf:
    return made_of_now(config, LocalWorkspace(folder / "workspace"), folder / machine, s3)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(b"weights") as running:
        yield running


def test_a_checkpoint_is_fetched_only_when_its_server_offers_another(site: Site, tmp_path: Path) -> None:
    address = f"{site.address}/a.safetensors"
    config = watched_config(tmp_path, **{"model.checkpoint": address, "dataset.allow_private_addresses": True})
    first = made(config, tmp_path)
    assert first.checkpoint_sha256 == hashlib.sha256(b"weights").hexdigest()
    # Another machine, without a download of its own: what was fetched is remembered by what was offered.
    assert made(config, tmp_path, "two") == first
    assert not (tmp_path / "two" / "checkpoints").exists()
    site.content, site.etag = b"weights", '"v2"'
    assert made(config, tmp_path) == first, "the same content under another ETag is no change"
    site.content, site.etag = b"other weights", '"v3"'
    assert made(config, tmp_path).checkpoint_sha256 == hashlib.sha256(b"other weights").hexdigest()


def test_a_server_that_does_not_say_what_it_offers_is_fetched_from(site: Site, tmp_path: Path) -> None:
    site.etag = site.modified = None
    address = f"{site.address}/a.safetensors"
    config = watched_config(tmp_path, **{"model.checkpoint": address, "dataset.allow_private_addresses": True})
    assert made(config, tmp_path).checkpoint_sha256 == hashlib.sha256(b"weights").hexdigest()
    site.content = b"changed!"
    assert made(config, tmp_path).checkpoint_sha256 == hashlib.sha256(b"changed!").hexdigest()


def test_a_data_set_in_s3_is_copied_only_when_its_listing_changes(client: Any, tmp_path: Path) -> None:
    local = watched_config(tmp_path)
    root = tmp_path / "data"
    for file in (path for path in root.rglob("*") if path.is_file()):
        client.put_object(Bucket="models", Key=f"people/{file.relative_to(root).as_posix()}", Body=file.read_bytes())
    config = watched_config(tmp_path, **{"dataset.source": "s3://models/people"})
    first = made(config, tmp_path, s3=lambda: client)
    assert first.dataset_digest == made(local, tmp_path).dataset_digest
    assert made(config, tmp_path, "two", s3=lambda: client) == first
    assert not (tmp_path / "two" / "s3").exists()
    (image,) = (root / "images" / "calibration").iterdir()
    client.put_object(Bucket="models", Key="people/images/calibration/more.jpg", Body=image.read_bytes())
    assert made(config, tmp_path, s3=lambda: client).dataset_digest != first.dataset_digest
