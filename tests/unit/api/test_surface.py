"""What `import hpe_tasks` offers: its names, their types, where they are documented, and that the import is free."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import hpe_tasks
from hpe_tasks.packaging import build

MODULES = {"errors"}

# Ends with what the import has brought in; nothing but the folder is on the path.
IMPORTED = """
import sys
sys.path[:] = [sys.argv[1], *(p for p in sys.path if "site-packages" not in p)]
before = set(sys.modules)
import hpe_tasks
print(*sorted(set(sys.modules) - before))
"""

# The libraries of the function are there, of others nothing.
SHIPPED = """
import sys

ABSENT = {"pydantic", "yaml", "boto3", "torch", "onnx", "typer", "rich", "jinja2", "scipy", "cv2"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
# As a folder, without the .pth files that would lead to this project's own folder.
sys.path[:0] = sys.argv[1:3]
import hpe_tasks
import hpe_tasks.serving.service
assert hpe_tasks.__file__.startswith(sys.argv[1]), hpe_tasks.__file__
print(*hpe_tasks.CODECS)
try:
    hpe_tasks.run
except ModuleNotFoundError as error:
    print(error.name)
"""


def typed_imports() -> dict[str, str]:
    """What type checkers see: (name, module) of the imports in the block that does not run."""
    tree = ast.parse(Path(hpe_tasks.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "without `as` it would not be exported"
            found[alias.name] = str(node.module)
    return found


def run_alone(code: str, *arguments: str) -> str:
    command = [sys.executable, "-IS", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing(repository: Path) -> None:
    assert run_alone(IMPORTED, str(repository)).split() == ["hpe_tasks"]


def test_type_checkers_see_what_there_is() -> None:
    homes = {name: home for home, names in hpe_tasks._HOMES.items() for name in names}
    assert typed_imports() == homes | dict.fromkeys(MODULES, "hpe_tasks")
    assert set(hpe_tasks.__all__) == homes.keys() | MODULES
    assert set(hpe_tasks.__all__) <= set(dir(hpe_tasks))


@pytest.mark.parametrize("name", hpe_tasks.__all__)
def test_every_name_can_be_imported(name: str) -> None:
    found = getattr(hpe_tasks, name)
    if name in MODULES:
        assert found is importlib.import_module(f"hpe_tasks.{name}")
    else:
        assert found is getattr(importlib.import_module(typed_imports()[name]), name)
        assert getattr(found, "__doc__", None)


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = hpe_tasks.quantise  # type: ignore[attr-defined]


def test_no_package_takes_the_place_of_a_function() -> None:
    """Importing a submodule sets an attribute of the package: one of an exported name would replace it."""
    inside = {module.name for module in pkgutil.iter_modules(hpe_tasks.__path__)}
    assert inside & set(hpe_tasks.__all__) == MODULES


def test_the_documentation_has_every_name_and_no_other(repository: Path) -> None:
    page = (repository / "docs" / "reference" / "python.md").read_text()
    shown = re.findall(r"^::: hpe_tasks\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(set(hpe_tasks.__all__) - {"CODECS", "PRESETS"})
    for name in ("CODECS", "PRESETS"):
        assert f"`hpe_tasks.{name}`" in page


def test_it_ships_in_the_function(tmp_path: Path) -> None:
    package = Path(hpe_tasks.__file__).parent
    for folder in build.OWN_FOLDERS:
        (tmp_path / "hpe_tasks" / folder).mkdir(parents=True, exist_ok=True)
        for file in (package / folder).glob("*.py"):
            shutil.copyfile(file, tmp_path / "hpe_tasks" / folder / file.name)
    for module in build.OWN_MODULES:
        shutil.copyfile(package / module, tmp_path / "hpe_tasks" / module)
    libraries = sysconfig.get_path("purelib")
    assert run_alone(SHIPPED, str(tmp_path), libraries).split() == [*hpe_tasks.CODECS, "hpe_tasks.api"]


def test_the_wheel_holds_the_marker_of_types_and_all_data(repository: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(repository / "hpe_tasks", source / "hpe_tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(repository / name, source / name)
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    assert "hpe_tasks/py.typed" in held
    files = (file.relative_to(source) for file in (source / "hpe_tasks").rglob("*") if file.is_file())
    assert {file.as_posix() for file in files} - held == set()
