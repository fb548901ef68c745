"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from hpe_tasks.packaging.build import OWN_FOLDERS, OWN_MODULES

PACKAGES = ("hpe_tasks", "dags", "plugins")


def modules(repository: Path) -> dict[Path, ast.Module]:
    paths = sorted(path for package in PACKAGES for path in (repository / package).rglob("*.py"))
    return {path.relative_to(repository): ast.parse(path.read_bytes()) for path in paths}


def test_no_two_classes_have_one_name(repository: Path) -> None:
    places = defaultdict(list)
    for path, tree in modules(repository).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert len(places) > 100
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_the_product_imports_no_tool_of_benchmarks(repository: Path) -> None:
    """The worker's image holds them all the same, because AIMET brings them along: an import would not fail there."""
    tools = {"matplotlib", "psutil"}
    found = [
        f"{path}:{node.lineno}"
        for path, tree in modules(repository).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.partition(".")[0] in tools
    ]
    assert found == []


def test_every_data_file_is_part_of_the_package(repository: Path) -> None:
    """What `package-data` does not name is there in a checkout and missing from what is installed elsewhere."""
    package = repository / "hpe_tasks"
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["hpe_tasks"]
    named = {path for pattern in patterns for path in package.glob(pattern)}
    there = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    data = {path for path in there if path.suffix != ".py"}
    assert data
    assert sorted(data - named) == []


OPENERS = {"InferenceSession": "contract/onnx_session.py", "OrtInferenceSession": "quantization/aimet.py"}
"""onnxruntime's own sessions, and those that AIMET opens for a simulation."""


@pytest.mark.parametrize(("opener", "place"), OPENERS.items())
def test_sessions_are_opened_in_one_place(repository: Path, opener: str, place: str) -> None:
    found = [
        path
        for path, tree in modules(repository).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) == opener
    ]
    assert found == [Path("hpe_tasks") / place]


def test_what_ships_in_the_function_knows_no_room_that_does_not(repository: Path) -> None:
    """The floors keep it from what lies above; import-linter has a list of what lies beside and below."""
    contracts = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [rooms] = [contract for contract in contracts if contract.get("exhaustive")]
    [function] = [contract for contract in contracts if contract["name"].startswith("The Lambda function holds")]
    ships = {folder.partition("/")[0] for folder in OWN_FOLDERS} | {Path(module).stem for module in OWN_MODULES}
    ships -= {"__init__"}
    floors = [{room.strip() for room in floor.split("|")} for floor in rooms["layers"]]
    [top] = [level for level, floor in enumerate(floors) if "serving" in floor]
    beside_or_below = set().union(*floors[top:])
    assert ships < beside_or_below
    assert {f"hpe_tasks.{room}" for room in ships} == set(function["source_modules"])
    assert {f"hpe_tasks.{room}" for room in beside_or_below - ships} <= set(function["forbidden_modules"])
