"""What ships is listed with digests and licences, and nothing ships whose licence nobody has allowed."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.licenses import canonicalize_license_expression
from pip._internal.network.session import PipSession
from pip._internal.req.req_file import parse_requirements

from hpe_tasks.errors import ConfigError
from hpe_tasks.packaging.dependencies import ARCHITECTURES, bill_of_libraries
from hpe_tasks.packaging.licences import LicencePolicy, licence_of
from hpe_tasks.packaging.locks import LockedDistribution, read_lock
from hpe_tasks.packaging.sbom import bill_of_materials, shipped
from support.cyclonedx import cyclonedx_validator

# Relative to the repository's root.
LOCKS = (
    "requirements.txt",
    *(f"docker/{image}/requirements.txt" for image in ("airflow", "worker", "lambda", "object-store")),
    *(f"hpe_tasks/packaging/requirements-{architecture}.txt" for architecture in ARCHITECTURES),
)
POLICY = LicencePolicy(
    allowed=frozenset({"MIT", "BSD-3-Clause", "LicenseRef-BSD", "Apache-2.0 WITH LLVM-exception"}),
    named={"mine": ("MPL-2.0", "because")},
    told={"untold": "MIT"},
    libraries={"libgood": "MIT", "libbad": "GPL-3.0-only"},
)
THREE_CLAUSES = "Redistributions of source code … Neither the name of the author nor the names of its contributors"


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom_tool", repository / "tools" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bills(tool: ModuleType, lambda_python: Path) -> dict[str, Any]:
    """As `make sbom` makes them, of what is installed here; fails where a licence is not on the list."""
    [libraries] = lambda_python.parents[1].glob("lib/python3.*/site-packages")
    return {name: json.loads(bill) for name, (bill, _) in tool.bills(libraries).items()}


def pins(file: Path) -> set[str]:
    return {f"pkg:pypi/{n}@{v}" for n, v in re.findall(r"^([a-z0-9._-]+)==(\S+)", file.read_text(), re.MULTILINE)}


def test_bills_list_what_the_images_install(bills: dict[str, Any], repository: Path) -> None:
    listed = {name: {part["purl"] for part in bill["components"]} for name, bill in bills.items()}
    docker = repository / "docker"
    lambdas = pins(docker / "lambda" / "requirements.txt")
    assert listed["worker.cdx.json"] == pins(docker / "worker" / "requirements.txt") | lambdas
    assert listed["scheduler.cdx.json"] == pins(docker / "airflow" / "requirements.txt")
    for architecture in ARCHITECTURES:
        names = {purl.removeprefix("pkg:pypi/").partition("@")[0] for purl in listed[f"lambda-{architecture}.cdx.json"]}
        assert names == {"cffi", "numpy", "onnxruntime", "pillow", "pynacl"}


def test_bills_are_what_cyclonedx_says_that_they_are(bills: dict[str, Any]) -> None:
    validator = cyclonedx_validator()
    assert len(bills) == 4
    for name, bill in bills.items():
        assert [error.message[:300] for error in validator.iter_errors(bill)] == [], name
    broken = json.loads(json.dumps(bills["lambda-arm64.cdx.json"]))
    broken["components"][0]["licenses"] = [{"license": {"id": "None of these"}}]
    assert list(validator.iter_errors(broken))


def test_what_bills_refer_to_is_in_them(bills: dict[str, Any]) -> None:
    """The schema does not say so."""
    for bill in bills.values():
        inner = [part for component in bill["components"] for part in component.get("components", ())]
        references = [part["bom-ref"] for part in (*bill["components"], *inner)]
        assert len(set(references)) == len(references)
        asks = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
        assert asks.keys() == {"root", *(part["bom-ref"] for part in bill["components"])}
        found, ahead = set[str](), ["root"]
        while ahead:
            found.add(reference := ahead.pop())
            ahead += set(asks[reference]) - found
        assert asks.keys() - found == set()


def test_every_licence_is_one_of_spdx(bills: dict[str, Any]) -> None:
    for bill in bills.values():
        for part in bill["components"]:
            for said in (part, *part.get("components", ())):
                [licence] = said["licenses"]
                named = licence.get("expression") or licence["license"].get("id") or licence["license"]["name"]
                assert canonicalize_license_expression(named) == named, part["name"]


def test_the_functions_bill_names_the_libraries_within_its_wheels(bills: dict[str, Any]) -> None:
    parts = {part["name"]: part for part in bills["lambda-x86_64.cdx.json"]["components"]}
    within = {name: [inner["name"] for inner in part.get("components", ())] for name, part in parts.items()}
    assert {"libgfortran", "libquadmath"} < set(within["numpy"])
    assert {"libjpeg", "libwebp"} < set(within["pillow"])
    # Slimming takes them out.
    assert not {"libavif", "libfreetype"} & set(within["pillow"])


@pytest.mark.parametrize("file", LOCKS)
def test_pip_reads_the_same_of_a_lock(repository: Path, file: str) -> None:
    """pip-audit reads it as pip does: https://pypi.org/project/pip-requirements-parser."""
    read = read_lock((repository / file).read_text(), file)
    requirements = list(parse_requirements(str(repository / file), session=PipSession()))
    assert len(requirements) == len(read) > 1
    for ours, theirs in zip(read, requirements, strict=True):
        assert theirs.requirement.strip() == f"{ours.name}=={ours.version}"
        assert theirs.options is not None
        assert theirs.options["hashes"] == {"sha256": list(ours.sha256)}
    assert all(one.required_by or one.asked_for for one in read)


PIN = f"numpy==2.4.6 \\\n    --hash=sha256:{'a' * 64}\n    # via hpe-tasks (pyproject.toml)\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no digests"),
        ("numpy==2.4.6\n", "Line 1"),
        ("numpy==2.4.6 \\\n", "holds no digests of numpy"),
        (f"--index-url https://x.example\n{PIN}", "Line 1"),
        (f"{PIN}pillow>=1 \\\n", "Line 4"),
        (f"{PIN}    --hash=md5:{'a' * 32}\n", "Line 4"),
    ],
)
def test_what_is_no_lock_is_refused(text: str, said: str) -> None:
    assert len(read_lock(PIN, "lock.txt")) == 1
    with pytest.raises(ConfigError, match=said):
        read_lock(text, "lock.txt")


def installed(folder: Path, name: str, *metadata: str, files: dict[str, str] | None = None) -> Distribution:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *metadata, ""]))
    named = [f"{info.name}/METADATA"]
    for file, text in (files or {}).items():
        path = folder / file.format(info=info.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        named.append(path.relative_to(folder).as_posix())
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in named))
    return PathDistribution(info)


@pytest.mark.parametrize(
    ("metadata", "text", "licence"),
    [
        pytest.param(["License-Expression: MIT OR GPL-2.0-only", "License: x"], "", "MIT OR GPL-2.0-only", id="newer"),
        pytest.param(["License: Apache License, Version 2.0"], "", "Apache-2.0", id="as people say"),
        pytest.param(["License: MPL-2.0 AND MIT"], "", "MPL-2.0 AND MIT", id="an expression in the older field"),
        pytest.param(["License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License"], "", "MIT", id="class"),
        pytest.param(["License: BSD"], THREE_CLAUSES, "BSD-3-Clause", id="three clauses"),
        pytest.param(["License: BSD"], "Redistributions of source code", "BSD-2-Clause", id="two clauses"),
        pytest.param(["License: BSD"], "", "LicenseRef-BSD", id="nobody knows how many"),
        pytest.param(["License: Copyright (c) 2026, Somebody"], "", None, id="a text"),
        pytest.param(["License: Dual License"], "", None, id="two, which it does not name"),
        pytest.param(
            [f"Classifier: License :: OSI Approved :: {name}" for name in ("MIT License", "BSD License")],
            "",
            None,
            id="classes that may be joined by or and by and",
        ),
        pytest.param(["Classifier: License :: OSI Approved"], "", None, id="some licence"),
        pytest.param([], "", None, id="none"),
    ],
)
def test_licences_are_read_from_the_metadata(
    metadata: list[str], text: str, licence: str | None, tmp_path: Path
) -> None:
    files = {"{info}/licenses/LICENSE": text} if text else {}
    assert licence_of(installed(tmp_path, "one", *metadata, files=files), POLICY) == licence


@pytest.mark.parametrize(
    ("licence", "passes"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT AND BSD-3-Clause", True),
        ("(GPL-3.0-only OR MIT) AND BSD-3-Clause", True),
        ("(MIT OR BSD-3-Clause) AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("Apache-2.0", False),
        ("MIT GPL-3.0-only", False),
        ("(MIT", False),
        (None, False),
    ],
)
def test_an_expression_passes_when_it_can_be_kept(licence: str | None, passes: bool) -> None:
    assert (POLICY.fault("one", licence) == "") == passes


def test_a_named_distribution_passes_with_the_licence_that_it_is_named_with() -> None:
    assert POLICY.fault("mine", "MPL-2.0") == POLICY.fault("mine", "MPL-2.0 AND MIT") == ""
    assert "mine has the licence GPL-3.0-only" in POLICY.fault("mine", "GPL-3.0-only")
    assert "other has the licence MPL-2.0" in POLICY.fault("other", "MPL-2.0")


def locked(*names: str) -> list[LockedDistribution]:
    return [LockedDistribution(name, "1.0", ("a" * 64, "b" * 64), (), True) for name in names]


def test_a_new_licence_is_told_with_all_others_at_once(tmp_path: Path) -> None:
    parts = [
        installed(tmp_path, "good", "License: MIT", files={"good.libs/libgood-0a1b.so.1": ""}),
        installed(tmp_path, "copyleft", "License-Expression: AGPL-3.0-or-later"),
        installed(tmp_path, "silent"),
        installed(tmp_path, "within", "License: MIT", files={"w.libs/libbad-1.so": "", "w.libs/libnew.a1.so": ""}),
        installed(tmp_path, "untold"),
    ]
    with pytest.raises(ConfigError, match="4 of what ships may not") as caught:
        shipped(locked("good", "copyleft", "silent", "within", "untold"), parts, POLICY)
    for said in ("copyleft has the licence AGPL", "silent does not say", "libbad has the licence", "libnew does not"):
        assert said in caught.value.message
    assert "licences.yaml" in caught.value.hint
    [good, untold] = shipped(locked("good", "untold"), parts, POLICY)
    assert (good.libraries, good.told, untold.licence, untold.told) == ((("libgood", "MIT"),), False, "MIT", True)


def test_what_is_not_installed_in_its_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one 1\.0 is not installed"):
        shipped(locked("one"), [], POLICY)
    one = installed(tmp_path, "one", "License: MIT")
    (tmp_path / "one-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.4\nName: one\nVersion: 2.0\n")
    with pytest.raises(ConfigError, match=r"one 1\.0 is installed as 2\.0"):
        shipped(locked("one"), [one], POLICY)


def test_a_bill_follows_from_its_content_alone(tmp_path: Path) -> None:
    parts = shipped(
        locked("one", "two"), [installed(tmp_path, name, "License: MIT") for name in ("one", "two")], POLICY
    )
    make: Callable[..., bytes] = bill_of_materials
    bill = make("image", "container", parts, "")
    assert bill == make("image", "container", [*reversed(parts), *parts], "")
    numbers = {json.loads(b)["serialNumber"] for b in (bill, make("image", "container", parts[:1], ""))}
    assert len(numbers) == 2
    assert b"timestamp" not in bill


def test_the_function_ships_nothing_that_slimming_removes() -> None:
    _, parts = bill_of_libraries("x86_64", distributions(path=sys.path))
    assert "protobuf" not in {part.locked.name for part in parts}


def test_reasons_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LicencePolicy.of_the_project()
    assert all(len(why) > 20 for _, why in policy.named.values())
    monkeypatch.setattr(
        "hpe_tasks.packaging.licences.yaml.safe_load",
        lambda _: {"allowed": [], "named": {"x": {"licence": "MPL-2.0"}}, "told": {}, "libraries": {}},
    )
    with pytest.raises(ConfigError, match=r"named\.x lacks"):
        LicencePolicy.of_the_project()
