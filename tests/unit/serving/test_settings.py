"""The function's environment variables."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hpe_tasks.errors import ConfigError
from hpe_tasks.serving.settings import ServingSettings

REGISTRY = {"HPE_REGISTRY": "s3://models/team/registry/", "HPE_MODEL": "pose", "HPE_CHANNEL": "production"}


def settings(environment: dict[str, str]) -> ServingSettings:
    return ServingSettings.from_environment(environment, Path("/var/task"))


def test_without_variables_the_package_s_model_is_served() -> None:
    assert settings({}) == ServingSettings(
        model_dir=Path("/var/task/model"),
        registry=None,
        model=None,
        channel=None,
        version=None,
        refresh_s=60,
        public_keys=(),
        min_counter=0,
        image_prefixes=(),
        cors_origins=(),
        max_image_bytes=4_500_000,
        max_stored_image_bytes=20_000_000,
        max_pixels=25_000_000,
        threshold=0.2,
        threads=1,
        metrics_namespace="HPE",
    )


def test_every_variable() -> None:
    key = bytes(range(32))
    read = settings(
        REGISTRY
        | {
            "HPE_REFRESH_SECONDS": "7.5",
            "HPE_PUBLIC_KEY": base64.b64encode(key).decode(),
            "HPE_CHANNEL_MIN_COUNTER": "1795000000000",
            "HPE_IMAGE_PREFIXES": "s3://inbox/photos/, s3://other",
            "HPE_CORS_ORIGINS": "https://a.example, http://localhost:8000",
            "HPE_MAX_IMAGE_BYTES": "1000",
            "HPE_MAX_STORED_IMAGE_BYTES": "5000",
            "HPE_MAX_PIXELS": "2000",
            "HPE_THRESHOLD": "0.35",
            "HPE_THREADS": "3",
            "HPE_METRICS_NAMESPACE": "Team/Poses",
        }
    )
    assert (read.registry, read.model, read.channel, read.version) == (
        "s3://models/team/registry",
        "pose",
        "production",
        None,
    )
    assert read.refresh_s == 7.5
    assert (read.public_keys, read.min_counter) == ((key,), 1_795_000_000_000)
    assert read.image_prefixes == ("s3://inbox/photos", "s3://other")
    assert read.cors_origins == ("https://a.example", "http://localhost:8000")
    assert (read.max_image_bytes, read.max_stored_image_bytes, read.max_pixels) == (1000, 5000, 2000)
    assert (read.threshold, read.threads) == (0.35, 3)
    assert read.metrics_namespace == "Team/Poses"


def test_the_model_folder_may_lie_elsewhere() -> None:
    assert settings({"HPE_MODEL_DIR": "/opt/model"}).model_dir == Path("/opt/model")
    assert settings({"HPE_MODEL_DIR": "models/b"}).model_dir == Path("/var/task/models/b")


def test_a_variable_that_a_template_left_empty_counts_as_not_set() -> None:
    names = ["REGISTRY", "MODEL", "CHANNEL", "VERSION", "PUBLIC_KEY", "CORS_ORIGINS", "THREADS", "THRESHOLD"]
    assert settings({f"HPE_{name}": "" for name in names}) == settings({})


@pytest.mark.parametrize(("memory", "threads"), [("512", 1), ("1769", 1), ("3537", 1), ("3538", 2), ("10240", 5)])
def test_one_thread_for_each_full_vcpu(memory: str, threads: int) -> None:
    assert settings({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": memory}).threads == threads


@pytest.mark.parametrize(
    ("memory", "pixels"),
    [
        ("128", 1_000_000),
        ("256", 1_000_000),
        ("512", 9_811_675),
        ("917", 24_978_578),
        ("918", 25_000_000),
        ("10240", 25_000_000),
    ],
)
def test_an_image_fits_into_the_function_s_memory(memory: str, pixels: int) -> None:
    environment = {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": memory}
    assert settings(environment).max_pixels == pixels
    # Who sets the limit is believed, up to what Pillow opens.
    assert settings(environment | {"HPE_MAX_PIXELS": "178956970"}).max_pixels == 178_956_970


def test_the_public_key_may_be_a_pem_file() -> None:
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert settings({"HPE_PUBLIC_KEY": pem}).public_keys == (raw,)
    # Consoles replace line breaks in a variable by blanks.
    assert settings({"HPE_PUBLIC_KEY": pem.replace("\n", " ")}).public_keys == (raw,)


def test_two_public_keys_are_accepted_while_one_is_being_changed() -> None:
    first, second = Ed25519PrivateKey.generate().public_key(), Ed25519PrivateKey.generate().public_key()
    raw = tuple(key.public_bytes(Encoding.Raw, PublicFormat.Raw) for key in (first, second))
    pem = first.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (f"{pem}, {base64.b64encode(raw[1]).decode()}", ",".join(base64.b64encode(k).decode() for k in raw)):
        assert settings({"HPE_PUBLIC_KEY": text}).public_keys == raw


def _key(content: int) -> str:
    return base64.b64encode(bytes([content]) * 32).decode()


def _x25519_pem() -> str:
    public = X25519PrivateKey.generate().public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        pytest.param({"HPE_REGISTRY": "models/team"}, "HPE_REGISTRY", id="registry without scheme"),
        pytest.param(REGISTRY | {"HPE_REGISTRY": "s3://models/../x"}, "HPE_REGISTRY", id="registry with dots"),
        pytest.param({"HPE_REGISTRY": "s3://models"}, "HPE_MODEL", id="registry without model"),
        pytest.param(REGISTRY | {"HPE_CHANNEL": ""}, "HPE_CHANNEL", id="neither channel nor version"),
        pytest.param(REGISTRY | {"HPE_VERSION": "0" * 16}, "HPE_VERSION", id="channel and version"),
        pytest.param({"HPE_CHANNEL": "production"}, "HPE_REGISTRY", id="channel without registry"),
        pytest.param({"HPE_MODEL": "pose"}, "HPE_REGISTRY", id="model without registry"),
        pytest.param(REGISTRY | {"HPE_MODEL_DIR": "/opt/model"}, "HPE_MODEL_DIR", id="two sources"),
        pytest.param(REGISTRY | {"HPE_MODEL": "../pose"}, "HPE_MODEL", id="model that is a path"),
        pytest.param(REGISTRY | {"HPE_CHANNEL": "", "HPE_VERSION": "latest"}, "HPE_VERSION", id="version"),
        pytest.param({"HPE_REFRESH_SECONDS": "soon"}, "HPE_REFRESH_SECONDS", id="refresh is not a number"),
        pytest.param({"HPE_REFRESH_SECONDS": "-1"}, "HPE_REFRESH_SECONDS", id="refresh is negative"),
        pytest.param({"HPE_THRESHOLD": "nan"}, "HPE_THRESHOLD", id="threshold NaN"),
        pytest.param({"HPE_THRESHOLD": "20"}, "HPE_THRESHOLD", id="threshold in percent"),
        pytest.param({"HPE_THREADS": "0"}, "HPE_THREADS", id="no thread"),
        pytest.param({"HPE_THREADS": "1.5"}, "HPE_THREADS", id="half a thread"),
        pytest.param({"HPE_MAX_PIXELS": "25e6"}, "HPE_MAX_PIXELS", id="pixels not whole"),
        pytest.param({"HPE_MAX_PIXELS": "178956971"}, "HPE_MAX_PIXELS", id="pixels beyond Pillow"),
        pytest.param({"HPE_MAX_STORED_IMAGE_BYTES": "0"}, "HPE_MAX_STORED_IMAGE_BYTES", id="stored images of no bytes"),
        pytest.param({"HPE_MAX_IMAGE_BYTES": "4.5 MB"}, "HPE_MAX_IMAGE_BYTES", id="bytes with a unit"),
        pytest.param({"HPE_IMAGE_PREFIXES": "s3://inbox,photos"}, "HPE_IMAGE_PREFIXES", id="image prefix"),
        pytest.param({"HPE_CORS_ORIGINS": "https://a.example/"}, "HPE_CORS_ORIGINS", id="origin with a path"),
        pytest.param({"HPE_CORS_ORIGINS": "a.example"}, "HPE_CORS_ORIGINS", id="origin without scheme"),
        pytest.param({"HPE_METRICS_NAMESPACE": "AWS/Lambda"}, "HPE_METRICS_NAMESPACE", id="namespace of AWS"),
        pytest.param({"HPE_METRICS_NAMESPACE": "a b"}, "HPE_METRICS_NAMESPACE", id="namespace with a blank"),
        pytest.param({"HPE_PUBLIC_KEY": "c2hvcnQ="}, "HPE_PUBLIC_KEY", id="short key"),
        pytest.param({"HPE_PUBLIC_KEY": "not base64"}, "HPE_PUBLIC_KEY", id="key that is not base64"),
        pytest.param({"HPE_PUBLIC_KEY": _x25519_pem()}, "HPE_PUBLIC_KEY", id="key of another kind"),
        pytest.param({"HPE_PUBLIC_KEY": f"{_key(1)},{_key(2)},{_key(3)}"}, "HPE_PUBLIC_KEY holds 3 keys", id="3 keys"),
        pytest.param({"HPE_PUBLIC_KEY": f"{_key(1)},{_key(1)}"}, "HPE_PUBLIC_KEY holds one key twice", id="twice"),
        pytest.param({"HPE_PUBLIC_KEY": f"{_key(1)},"}, "HPE_PUBLIC_KEY is not", id="key and nothing"),
        pytest.param(
            REGISTRY | {"HPE_CHANNEL_MIN_COUNTER": "5"}, "HPE_PUBLIC_KEY is not", id="counter of unsigned pointers"
        ),
        pytest.param(
            {"HPE_PUBLIC_KEY": _key(1), "HPE_CHANNEL_MIN_COUNTER": "5"}, "HPE_CHANNEL is not", id="counter of nothing"
        ),
        pytest.param(
            REGISTRY | {"HPE_PUBLIC_KEY": _key(1), "HPE_CHANNEL_MIN_COUNTER": "-5"},
            "HPE_CHANNEL_MIN_COUNTER",
            id="negative counter",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        settings(environment)
    assert refused.value.hint
