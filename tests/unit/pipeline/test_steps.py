from __future__ import annotations

import functools
import http.server
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import ConfigError, DigestError
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.storage.files import sha256_file
from support.no_s3 import no_s3
from support.signing_keys import key_pem


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that a server offers it under."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def open_at(tmp_path: Path, cache: str, **overrides: object) -> Run:
    overrides = {"dataset__allow_private_addresses": True, **overrides}
    settings = {key.replace("__", "."): value for key, value in overrides.items()}
    workspace = (tmp_path / "workspace").as_uri()
    config = load_config("sample", overrides=settings)
    return open_run(config, workspace=workspace, cache=tmp_path / cache, name="r", s3=no_s3)


def test_a_checkpoint_of_our_own_training_says_what_it_was_trained_on(tmp_path: Path) -> None:
    fetched = steps.fetch_checkpoint(open_at(tmp_path, "one worker"))
    assert fetched.trained_on == "Drawn people, made by hpe_tasks.data.sample; input 128×192."


def test_a_checkpoint_is_trusted_on_first_use(
    served: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, address = served
    file, source = folder / "weights.safetensors", f"{address}/weights.safetensors"
    shutil.copyfile(sample_checkpoint(), file)
    with caplog.at_level(logging.WARNING):
        first = steps.fetch_checkpoint(open_at(tmp_path, "one worker", model__checkpoint=source))
    assert first.file.sha256 == sha256_file(file)
    assert f"{first.file.sha256} is recorded and enforced from now on" in caplog.text

    other = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(other, file)
    # Another worker has nothing of it in its cache, but shares the workspace.
    with pytest.raises(DigestError, match=r"now has the SHA-256 .* when it was first used"):
        steps.fetch_checkpoint(open_at(tmp_path, "another worker", model__checkpoint=source))

    meant = {"model__checkpoint": source, "model__checkpoint_sha256": sha256_file(file)}
    accepted = steps.fetch_checkpoint(open_at(tmp_path, "another worker", **meant))
    assert accepted.file.sha256 == sha256_file(file)
    again = steps.fetch_checkpoint(open_at(tmp_path, "third worker", model__checkpoint=source))
    assert again.file.sha256 == sha256_file(file)


@pytest.mark.parametrize(
    ("overrides", "pem", "says"),
    [
        pytest.param({"destination__require_signature": True}, None, "require_signature is on", id="no key"),
        pytest.param({}, b"no key", "not a private key in PEM", id="a key that is none"),
    ],
)
def test_a_run_that_could_not_sign_stops_before_its_data_are_fetched(
    tmp_path: Path, overrides: dict[str, object], pem: bytes | None, says: str
) -> None:
    run = replace(open_at(tmp_path, "worker", **overrides), signing_key=lambda: pem)
    with pytest.raises(ConfigError, match=says):
        steps.fetch_dataset(run)
    assert not (tmp_path / "worker").exists()
    steps.fetch_dataset(replace(run, signing_key=key_pem))
