"""What publisher and function agree on: written once, as it has always been."""

from __future__ import annotations

import ast
from importlib.resources import files
from pathlib import Path

import pytest

from hpe_tasks.contract import keys, names
from hpe_tasks.contract.canonical import canonical_json

VERSION = "0123456789abcdef"
DIGEST = VERSION * 4


def pieces(path: Path) -> str:
    """The texts in a module that are no sentences: neither docstrings nor messages."""
    texts = (node.value for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Constant))
    return "\n".join(text for text in texts if isinstance(text, str) and " " not in text)


@pytest.mark.parametrize(
    ("key", "written"),
    [
        pytest.param(keys.pointer_key("pose", "staging"), "models/pose/channels/staging.json", id="pointer"),
        pytest.param(
            keys.manifest_key("pose", VERSION), f"models/pose/versions/{VERSION}/manifest.json", id="manifest"
        ),
        pytest.param(
            keys.signature_key("pose", VERSION), f"models/pose/versions/{VERSION}/manifest.json.sig", id="signature"
        ),
        pytest.param(keys.blob_key(DIGEST), f"blobs/sha256/{DIGEST}", id="blob"),
    ],
)
def test_keys_stay_where_published_models_lie(key: str, written: str) -> None:
    assert key == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param({"b": [1, 2.5], "a": {"d": None, "c": True}}, '{"a":{"c":true,"d":null},"b":[1,2.5]}', id="order"),
        pytest.param({"ä": "×"}, '{"ä":"×"}', id="characters"),
    ],
)
def test_canonical_json_stays_as_versions_were_made(value: object, written: str) -> None:
    assert canonical_json(value) == written.encode()


def test_canonical_json_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"limit": float("nan")})


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(names.SLUG, id="name"),
        pytest.param(names.VERSION, id="version"),
        pytest.param(names.SHA256, id="digest"),
        pytest.param(names.MANIFEST, id="manifest"),
        pytest.param(".sig", id="signature"),
        pytest.param("/channels", id="channels"),
        pytest.param("/versions", id="versions"),
        pytest.param("blobs/", id="blobs"),
    ],
)
def test_only_the_contract_holds_it(repository: Path, piece: str) -> None:
    package = repository / "hpe_tasks"
    holders = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if piece in pieces(path)}
    assert holders in ({"contract/names.py"}, {"contract/keys.py"})


def test_only_the_contract_writes_canonical_json(repository: Path) -> None:
    package = repository / "hpe_tasks"
    writers = [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and {"sort_keys", "allow_nan"} <= {keyword.arg for keyword in node.keywords}
    ]
    assert writers == ["contract/canonical.py"]


def test_the_template_asks_for_the_same_names() -> None:
    """It is CloudFormation's, so the pattern is written there again."""
    template = files("hpe_tasks.packaging").joinpath("template.yaml").read_text()
    patterns = [line.partition(":")[2].strip() for line in template.splitlines() if "AllowedPattern" in line]
    assert patterns.count(f'"^{names.SLUG}$"') == 2
