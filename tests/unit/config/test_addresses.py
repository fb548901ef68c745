"""Addresses without their credentials: what is shown, what is stored, and what stays the same whoever asks."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.cli.options import read_values
from hpe_tasks.config.addresses import (
    address_identity,
    carries_credential,
    credentials_in,
    redacted,
    redacted_text,
    settings_with_credentials,
    shown_address,
    without_credentials,
)
from hpe_tasks.config.environment import Settings
from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import ConfigError, HpeError
from hpe_tasks.storage.opening import open_workspace
from hpe_tasks.storage.s3 import S3Location, make_client
from support.no_s3 import no_s3

SIGNED = "https://host/a/w.pth"
SECRETS = ("hunter2", "s3cr3t", "AKIDEXAMPLE")

CARRYING = {
    "password": "https://ada:hunter2@host/a/w.pth",
    "user alone, as a token": "https://hunter2@host/a/w.pth",
    "S3 signature": f"{SIGNED}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F2026&X-Amz-Expires=60"
    "&X-Amz-Security-Token=hunter2&X-Amz-SignedHeaders=host&X-Amz-Signature=s3cr3t",
    "older S3 signature": f"{SIGNED}?AWSAccessKeyId=AKIDEXAMPLE&Expires=1&Signature=s3cr3t",
    "Google's signature": f"{SIGNED}?X-Goog-Credential=hunter2&X-Goog-Signature=s3cr3t",
    "CloudFront": f"{SIGNED}?Expires=1&Policy=hunter2&Signature=s3cr3t&Key-Pair-Id=AKIDEXAMPLE",
    "Azure SAS": f"{SIGNED}?sv=2024-11-04&st=2026-01-01&se=2026-12-01&sr=b&sp=r&skoid=x&sig=s3cr3t",
    "token": f"{SIGNED}?token=s3cr3t",
    "access token": f"{SIGNED}?access_token=s3cr3t",
    "camel case": f"{SIGNED}?accessToken=s3cr3t",
    "API key": f"{SIGNED}?api-key=s3cr3t",
    "password as a parameter": f"{SIGNED}?user_password=s3cr3t",
    "escaped name": f"{SIGNED}?%74oken=s3cr3t",
    "code of a function": f"{SIGNED}?code=s3cr3t",
    "fragment too": f"{SIGNED}?token=s3cr3t#hunter2",
}


@pytest.mark.parametrize("address", CARRYING.values(), ids=CARRYING)
def test_credentials_are_seen_and_left_out(address: str) -> None:
    assert carries_credential(address)
    assert shown_address(address) == redacted(address) == address_identity(address) == SIGNED
    assert redacted_text(f"GET '{address}' failed") == f"GET '{SIGNED}' failed"


@pytest.mark.parametrize(
    "address",
    [
        "sample",
        "/data/coco:v2@home",
        "file:///data/a%20b/coco.zip",
        "s3://bucket/pre/fix@v1",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/data/coco.zip",
        "https://host:8443/a/@scope/w.pth?id=5&design=x&author=me&expires=never;part=2#top",
        "HTTPS://Host/UPPER/../x?",
        "not an address",
        "",
    ],
)
def test_what_carries_none_is_the_same_character_by_character(address: str) -> None:
    assert not carries_credential(address)
    assert address_identity(address) == address


def test_other_parameters_tell_addresses_apart() -> None:
    one, other = (f"https://ada:hunter2@host/get?id={n}&token=s3cr3t" for n in (1, 2))
    assert address_identity(one) == "https://host/get?id=1"
    assert address_identity(other) == "https://host/get?id=2"


@pytest.mark.parametrize(
    "address", ["https://ada:hun/ter2@host/x", "https://ada:hun#ter2@host/x", "https://ada:hunter2@[host/x"]
)
def test_a_password_that_breaks_its_address_is_not_shown_either(address: str) -> None:
    assert carries_credential(address)
    assert redacted(address) in {"https://…", "https://…/"}
    assert "hun" not in redacted_text(f"no: {address}")
    assert "hun" not in address_identity(address)


def config_with(address: str) -> Any:
    settings = {
        "model.checkpoint": address,
        "dataset.source": address,
        "dataset.kind": "mpii",
        "dataset.image_archives": [address, "/images.zip"],
        "dataset.valid_images": address,
    }
    return load_config("pose_resnet_50_mpii", overrides=settings)


@pytest.mark.parametrize("address", CARRYING.values(), ids=CARRYING)
def test_no_setting_of_a_configuration_keeps_one(address: str) -> None:
    config = config_with(address)
    text = without_credentials(config).model_dump_json()
    assert not [secret for secret in SECRETS if secret in text]
    assert settings_with_credentials(config) == (
        *("model.checkpoint", "dataset.source", "dataset.image_archives", "dataset.valid_images"),
    )
    stored = without_credentials(config)
    assert (stored.model.checkpoint, stored.dataset.image_archives) == (SIGNED, (SIGNED, "/images.zip"))
    assert without_credentials(stored) is stored


@pytest.mark.parametrize(
    ("address", "credentials"),
    [
        pytest.param("https://ada:hun%2Fter2@host/x", {"hun%2Fter2", "hun/ter2"}, id="password"),
        pytest.param("https://hunter2@host/x", {"hunter2"}, id="user alone"),
        pytest.param(CARRYING["S3 signature"], {"AKIDEXAMPLE%2F2026", "AKIDEXAMPLE/2026", *SECRETS[:2]}, id="S3"),
        pytest.param("https://host/x?sp=r&se=2026&sig=a%2Bb", {"a%2Bb", "a+b"}, id="Azure SAS"),
        pytest.param("https://host/x?id=5", set(), id="none"),
    ],
)
def test_credentials_can_be_named_to_those_who_mask_them(address: str, credentials: set[str]) -> None:
    assert set(credentials_in(config_with(address))) == credentials


BUCKET = "s3://AKIDEXAMPLE:hunter2@bucket/x"
SLASHED = "s3://AKIDEXAMPLE:hun/ter2@bucket/x"
ENDPOINT = "http://ada:hunter2@bad host/"
ADDRESS = CARRYING["password"] + "?X-Amz-Signature=s3cr3t"

REFUSED = {
    "value of a wrong type": lambda: load_config("sample", overrides={"gate.min_ap": ADDRESS}),
    "value out of bounds": lambda: load_config("sample", overrides={"destination.registry": ADDRESS}),
    "unknown choice": lambda: load_config("sample", overrides={"dataset.kind": ADDRESS}),
    "list in place of a text": lambda: load_config("sample", overrides={"dataset.source": [ADDRESS]}),
    "digest": lambda: load_config("sample", overrides={"model.checkpoint_sha256": ADDRESS}),
    "unknown setting": lambda: load_config("sample", overrides={ADDRESS: 1}),
    "no value": lambda: read_values([CARRYING["password"]]),
    "not YAML": lambda: read_values([f"model.checkpoint={{{ADDRESS}"]),
    "workspace": lambda: open_workspace(ADDRESS, s3=no_s3, cache=Path("x")),
    "S3 address": lambda: S3Location.parse(ADDRESS),
    "credentials before a bucket": lambda: S3Location.parse(BUCKET),
    "such with a slash": lambda: S3Location.parse(SLASHED),
    "endpoint": lambda: make_client(endpoint_url=ENDPOINT),
}


@pytest.mark.parametrize("fail", REFUSED.values(), ids=REFUSED)
def test_errors_do_not_quote_them(fail: Any) -> None:
    with pytest.raises(HpeError) as caught:
        fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in SECRETS if secret in shown], shown


def test_a_file_with_one_is_not_quoted(tmp_path: Path) -> None:
    for name, text in {"broken.yaml": f"model: {{checkpoint: {ADDRESS}", "flat.yaml": f"model: {ADDRESS}"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config("sample", tmp_path / name)
        shown = "".join(traceback.format_exception(caught.value))
        assert not [secret for secret in SECRETS if secret in shown], shown


def test_the_place_of_the_workspace_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", ADDRESS)
    with pytest.raises(ConfigError, match=r"HPE_WORKSPACE is 'https://host/a/w\.pth'"):
        Settings.from_environment()


def test_other_values_are_shown_as_they_are() -> None:
    value = {"a": [1, ("x", None)], "b": "no address"}
    assert redacted(value) == value
    assert json.dumps(redacted({ADDRESS: [ADDRESS]})) == json.dumps({SIGNED: [SIGNED]})
