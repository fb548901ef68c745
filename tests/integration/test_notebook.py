"""The notebook of examples/: it runs offline from a fresh start, and shows a verdict and pictures."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.integration

NAME = "onnx_to_verdict.ipynb"
_MOST_LINES = 20


@pytest.fixture(scope="module")
def notebook(repository: Path) -> nbformat.NotebookNode:
    return nbformat.read(repository / "examples" / NAME, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_short_and_holds_no_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    lines = [line for source in code_of(notebook) for line in source.splitlines() if line.strip()]
    assert len(lines) <= _MOST_LINES
    assert all(len(ast.parse(source).body) <= len(source.splitlines()) for source in code_of(notebook))
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.long
def test_from_an_onnx_file_to_verdict_and_pictures(
    notebook: nbformat.NotebookNode, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(repository / "examples" / NAME, tmp_path / NAME)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("HPE_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    # Nothing answers there: whatever asked the network would fail.
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    client = nbclient.NotebookClient(
        nbformat.read(tmp_path / NAME, as_version=4), timeout=560, resources={"metadata": {"path": str(tmp_path)}}
    )
    done = client.execute()
    shown = [output.data["text/html"] for cell in done.cells for output in cell.get("outputs", ()) if "data" in output
             and "text/html" in output.data]  # fmt: skip
    result, pictures, decision = shown
    assert "Passed the gate, not published yet" in result
    assert re.findall(r"<th scope=\"col\" class=\"right\">(FP32|QuantSim|ONNX int8)</th>", result)
    assert pictures.count('src="data:image/jpeg;base64,') == 3 * 4
    assert "✕ failed" in decision
    assert "is above 0.5 MB" in decision.replace("\u00a0", " ")
    told = "".join(output.text for cell in done.cells for output in cell.get("outputs", ()) if "text" in output)
    assert re.search(r"^gate +done", told, re.MULTILINE)
    assert re.search(r"^evaluate_quantized +reused", told, re.MULTILINE)
    assert "Traceback" not in told
    assert (tmp_path / ".hpe" / "yours.int8.onnx").stat().st_size < (tmp_path / ".hpe" / "yours.onnx").stat().st_size
    nbformat.write(done, tmp_path / "executed.ipynb")
