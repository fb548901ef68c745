"""What a stored result depends on: the code that its step can reach, read from the source."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.reach import Reach, Source, reach_of
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.step import Step

FILES = {
    "__init__.py": "from kit.cli import helper",
    "step.py": """
        def step(kind, **rules): ...
    """,
    "steps.py": """
        \"\"\"Steps.\"\"\"
        from kit import late
        from kit.config import Settings, LIMIT
        from kit.step import step

        def _check(record):
            from kit.gate import judge

        def _settings(config):
            return [config, _PART]

        _PART = "part"

        @step(int, settings=_settings, accept=_check)
        def fetch(run):
            \"\"\"Fetch.\"\"\"
            from kit.download import get
            return get(run)

        @step(int, needs=(fetch,), accept=_check)
        def measure(run: Settings):
            \"\"\"Measure.\"\"\"
            # A comment.
            from kit.model import build
            return build(run.result(fetch), LIMIT)

        @step(int, needs=(measure,))
        def draw(run):
            return late.draw(run)
    """,
    "config.py": """
        \"\"\"Settings.\"\"\"
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from kit.gate import judge
        LIMIT = 1
        class Settings:
            limit: int = Field(default=1, description="The limit.", ge=0)
    """,
    "download.py": "def get(run): ...",
    "gate.py": "def judge(record): ...",
    "late.py": "def draw(run): ...",
    "cli.py": "def helper(): ...",
    "model/__init__.py": """
        import importlib
        def build(*inputs):
            from .layers import conv
            return conv(importlib.import_module("kit.model.plain"))
    """,
    "model/layers.py": """
        from pathlib import Path
        WEIGHTS = Path(__file__).parents[1] / "assets" / "weights.bin"
        def conv(): ...
    """,
    "model/plain.py": "def f(): ...",
    "model/unused.py": "def f(): ...",
    "model/kernels.txt": "k",
    "assets/weights.bin": "w",
    "report/__init__.py": "",
    "report/page.css": "c",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "kit" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    return tmp_path / "kit"


def reach(package: Path, name: str) -> Reach:
    return Source(package).reach(("kit.steps", name))


def test_a_step_reaches_what_its_function_imports_and_what_that_imports(package: Path) -> None:
    found = reach(package, "measure")
    assert found.modules == {"kit.steps", "kit.config", "kit.model", "kit.model.layers", "kit.model.plain"}
    assert {file.name for file in found.files} == {"weights.bin", "kernels.txt"}
    assert reach(package, "fetch").modules == {"kit.steps", "kit.download"}
    assert reach(package, "draw").modules == {"kit.steps", "kit.late"}


EDITS = [
    pytest.param("steps.py", "LIMIT)", "LIMIT + 1)", {"measure"}, id="its own function"),
    pytest.param("steps.py", "late.draw(run)", "late.draw(run, 1)", {"draw"}, id="a neighbour's function"),
    pytest.param("steps.py", '_PART = "part"', '_PART = "other"', {"fetch"}, id="a constant behind its settings"),
    pytest.param("steps.py", "from kit.gate import judge", "from kit.gate import other", set(), id="what is accepted"),
    pytest.param("steps.py", '"""Measure."""', '"""Measure well."""', set(), id="its description"),
    pytest.param("steps.py", "# A comment.", "# Another.", set(), id="a comment"),
    pytest.param("config.py", "The limit.", "A limit.", set(), id="the help text of a setting"),
    pytest.param("config.py", '"""Settings."""', '"""All settings."""', set(), id="a module's description"),
    pytest.param("config.py", "ge=0", "ge=1", {"measure"}, id="the bound of a setting"),
    pytest.param("config.py", "default=1", "default=2", {"measure"}, id="the default of a setting"),
    pytest.param("model/layers.py", "def conv(): ...", "def conv(): return 1", {"measure"}, id="a late import"),
    pytest.param("model/plain.py", "...", "return 1", {"measure"}, id="a module that is imported by its name"),
    pytest.param("model/unused.py", "...", "return 1", set(), id="a module that nothing imports"),
    pytest.param("download.py", "...", "return 1", {"fetch"}, id="what its input is made with"),
    pytest.param("gate.py", "...", "return 1", set(), id="imported for its types"),
    pytest.param("cli.py", "...", "return 1", set(), id="the public surface"),
    pytest.param("assets/weights.bin", "w", "v", {"measure"}, id="data that a module names"),
    pytest.param("model/kernels.txt", "k", "l", {"measure"}, id="data beside a module"),
    pytest.param("report/page.css", "c", "d", set(), id="data of another package"),
]


@pytest.mark.parametrize(("file", "old", "new", "changed"), EDITS)
def test_only_what_it_can_reach_changes_its_key(
    package: Path, file: str, old: str, new: str, changed: set[str]
) -> None:
    before = {name: reach(package, name).parts for name in ("fetch", "measure", "draw")}
    text = (package / file).read_text()
    assert text.count(old) == 1
    (package / file).write_text(text.replace(old, new))
    after = {name: reach(package, name).parts for name in before}
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_module_that_looks_for_others_reaches_all_beside_it(package: Path) -> None:
    (package / "model/__init__.py").write_text(
        "import pkgutil\ndef build(*inputs):\n    return list(pkgutil.iter_modules(__path__))\n"
    )
    assert {"kit.model.layers", "kit.model.plain", "kit.model.unused"} <= reach(package, "measure").modules


def test_a_name_that_is_put_together_reaches_all_that_it_may_name(package: Path) -> None:
    (package / "late.py").write_text(
        "from importlib import import_module\ndef draw(run): return import_module(f'kit.model.{run}')\n"
    )
    assert {"kit.model", "kit.model.layers", "kit.model.unused"} <= reach(package, "draw").modules


@pytest.fixture(scope="module")
def copied(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This package, to be edited."""
    folder = tmp_path_factory.mktemp("copied") / "hpe_tasks"
    shutil.copytree(repository / "hpe_tasks", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


OWN_EDITS = [
    pytest.param("config/recipe.py", "Bit width of weights.", "Bits of weights.", False, id="help text of a setting"),
    pytest.param("config/help.py", '"at least"', '"not below"', False, id="words of the help"),
    pytest.param("cli/app.py", "List the ready-made", "List all", False, id="help text of a command"),
    pytest.param("report/templates/report.html.j2", "<body>", "<body >", False, id="report"),
    pytest.param("config/presets/sample.yaml", "min_ap: 0.6", "min_ap: 0.61", False, id="preset"),
    pytest.param("gate/checks/cost.py", "allow {size}", "take {size}", False, id="advice of the gate"),
    pytest.param("quantization/torch_backend.py", "def quantize(", "def quantize_(", True, id="what it runs"),
    pytest.param("config/recipe.py", "le=10_000", "le=20_000", True, id="bound of a setting"),
    pytest.param("inference/crops.py", "def person_batches", "def batches", True, id="calibration crops"),
]


@pytest.mark.parametrize(("file", "old", "new", "again"), OWN_EDITS)
def test_what_quantizes_again(copied: Path, file: str, old: str, new: str, again: bool) -> None:
    text = (copied / file).read_text()
    assert old in text
    asked = (steps.quantize.body.__module__, "quantize")
    before = Source(copied).reach(asked).parts
    (copied / file).write_text(text.replace(old, new))
    after = Source(copied).reach(asked).parts
    (copied / file).write_text(text)
    assert (before != after) is again


@pytest.mark.parametrize("step", REQUANTIZE.steps, ids=lambda step: step.name)
def test_the_command_line_and_the_report_are_behind_no_stored_result(step: Step[Any]) -> None:
    if not step.reuse:
        return
    found = reach_of(step.body)
    above = {"cli", "report", "local_service", "diagnosis", "preflight", "release", "registry", "packaging", "serving"}
    rooms = {name.split(".")[1] for name in found.modules if "." in name}
    assert rooms & above == ({"diagnosis"} if step is steps.check_fp32 else set()), sorted(found.modules)
    assert not {file.suffix for file in found.files} & {".css", ".j2", ".js"}


REACHED: list[tuple[Callable[..., object], str]] = [
    (steps.quantize.body, "hpe_tasks.quantization.torch_backend"),
    (steps.quantize.body, "hpe_tasks.quantization.onnx_backend"),
    (steps.export_onnx.body, "hpe_tasks.onnx_runtime.kernel_proof"),
    (steps.evaluate_fp32.body, "hpe_tasks.metrics.coco_ap"),
    (steps.gate.body, "hpe_tasks.gate.decision"),
]


@pytest.mark.parametrize(("body", "module"), REACHED, ids=[module for _, module in REACHED])
def test_lazily_imported_modules_are_reached(body: Callable[..., object], module: str) -> None:
    assert module in reach_of(body).modules


MORE = """
from kit.step import step
from kit.steps import draw, fetch, measure

def _both(run):
    from kit.steps import draw
    return measure(run)

@step(int, needs=(fetch,))
def again(run):
    return _both(run)

def made(name):
    def body(run):
        return _both(run)
    return step(int, needs=(fetch,))(body)
"""


def test_of_a_step_that_is_called_the_function_counts(package: Path) -> None:
    """Wherever it comes from; of those that are only named, as inputs are, what they have done is what counts."""
    (package / "more.py").write_text(MORE)
    source = Source(package)
    for found in (source.reach(("kit.more", "again")), source.reach_of_modules("kit.more")):
        assert {"kit.more", "kit.model", "kit.model.layers"} <= found.modules
        assert "kit.steps:measure" in found.parts
        assert not {"kit.download", "kit.late"} & found.modules


def test_the_run_s_own_steps_do_not_depend_on_the_ladder() -> None:
    """One more rung makes nothing again that was quantized or measured."""
    for one in (steps.quantize, steps.export_onnx, steps.evaluate_quantized, steps.compare_accuracy, steps.gate):
        modules = reach_of(one.body).modules
        assert not {"hpe_tasks.config.rungs", "hpe_tasks.pipeline.steps.ladder"} & modules, one.name
