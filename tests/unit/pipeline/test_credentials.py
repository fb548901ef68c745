"""What a run stores does not hold the credentials of its addresses, and whoever gives them again continues it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run, failure_message, find_run, open_run
from hpe_tasks.preflight import _Looks
from hpe_tasks.storage.files import digest_of
from support.faulty_server import serve
from support.no_s3 import no_s3

SECRETS = ("hunter2", "s3cr3t")


def asked(checkpoint: str, **settings: object) -> RunConfig:
    given = {"model.checkpoint": checkpoint, "dataset.allow_private_addresses": True, **settings}
    return load_config("sample", overrides=given)


def opened(config: RunConfig, folder: Path) -> Run:
    return open_run(config, workspace=(folder / "w").as_uri(), cache=folder / "c", name="r", s3=no_s3)


def signed(site_address: str, password: str = "hunter2", signature: str = "s3cr3t") -> str:
    return site_address.replace("://", f"://ada:{password}@") + f"/weights.safetensors?X-Amz-Signature={signature}"


def held_in(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix == ".json"]
    assert files
    return b"".join(path.read_bytes() for path in files)


def test_a_run_is_continued_by_whoever_gives_the_address_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(sample_checkpoint().read_bytes()) as site:
        site.files = {f"/weights.safetensors?X-Amz-Signature={s}": site.content for s in ("s3cr3t", "s3cr3t2")}
        with caplog.at_level(logging.WARNING):
            run = opened(asked(signed(site.address)), tmp_path)
        assert "An address with a credential" in caplog.text
        assert "model.checkpoint" in caplog.text
        first = steps.fetch_checkpoint(run)

        stored = held_in(tmp_path / "w")
        assert not [secret for secret in SECRETS if secret.encode() in stored]
        found = find_run("r", workspace=(tmp_path / "w").as_uri(), cache=tmp_path / "c", s3=no_s3)
        public = f"{site.address}/weights.safetensors"
        assert found.asked.model.checkpoint == records_of(found, looking_back=True).config.model.checkpoint == public
        assert found.recorded(steps.fetch_checkpoint) == first

        # Signed anew, by somebody else: the same run, and the same result.
        again = opened(asked(signed(site.address, "hunter2b", "s3cr3t2")), tmp_path)
        assert again.name == run.name
        assert steps.fetch_checkpoint(again) == first
        pointer = again.pointer("fetch_checkpoint")
        assert pointer is not None
        assert pointer.reused
        assert not [secret for secret in SECRETS if secret.encode() in held_in(tmp_path / "w")]
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize("allowed", [False, True])
def test_without_credentials_the_folder_is_as_it_was(tmp_path: Path, allowed: bool) -> None:
    """What was asked is digested as it is, and a setting that is new since does not count while it is off."""
    before = {"dataset.allow_private_addresses": allowed, "evaluation.fp32_runtime": "torch"}
    config = asked("https://host/w.pth?id=5&author=me", **before)
    content = config.model_dump(mode="json")
    if not allowed:
        del content["dataset"]["allow_private_addresses"]
    del content["evaluation"]["shards"], content["evaluation"]["fp32_runtime"]
    assert opened(config, tmp_path).name == f"r-{digest_of(content)[:8]}"


def test_an_address_with_a_credential_says_so_before_the_run(tmp_path: Path) -> None:
    def looked_at(config: RunConfig) -> _Looks:
        workspace = opened(config, tmp_path).workspace
        return _Looks(config, workspace, tmp_path / "c", no_s3, signing_key=lambda: None, publishing=False)

    plain = looked_at(asked("https://host/w.pth?id=5"))
    assert "credentials" not in [check.name for check in plain.checks()]
    carrying = looked_at(asked("https://ada:hunter2@host/w.pth", **{"dataset.boxes": "https://host/b?sig=s3cr3t"}))
    (record,) = (check.carry_out()[0] for check in carrying.checks() if check.name == "credentials")
    assert record.state == "warning"
    assert "model.checkpoint, dataset.boxes" in record.found
    assert "~/.netrc" in record.advice
    assert "give the address again" in record.advice
    assert not [secret for secret in SECRETS if secret in record.model_dump_json()]


def test_a_failure_that_nobody_foresaw_is_kept_without_them() -> None:
    error = OSError('Could not connect to the endpoint URL: "http://ada:hunter2@store:9000/b?token=s3cr3t"')
    assert failure_message(error) == 'OSError: Could not connect to the endpoint URL: "http://store:9000/b"'
