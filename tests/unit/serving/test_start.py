"""What a process does before its first answer, and what it leaves for then."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hpe_tasks.contract.digests import FileDigest
from hpe_tasks.errors import CheckpointError, StorageError
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.verified_model import VerifiedModel
from support.serving_cases import Context, OneModel, base64_of, encoded, photo, tiny_model

SETTINGS = ServingSettings.from_environment({}, Path())


def said_by(code: str, **variables: str) -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    said: dict[str, object] = json.loads(done.stdout)
    return said


_START = """
import gc, json, os
from hpe_tasks.serving.process import starting
with starting():
    during = gc.isenabled()
print(json.dumps({"during": during, "after": gc.isenabled(), "kept": gc.get_freeze_count() > 0,
                  "threads": os.environ["OPENBLAS_NUM_THREADS"]}))
"""


@pytest.mark.parametrize(("variables", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")])
def test_a_start_looks_for_no_garbage_and_what_comes_after_it_does(variables: dict[str, str], threads: str) -> None:
    assert said_by(_START, **variables) == {"during": False, "after": True, "kept": True, "threads": threads}


_MEMORY = """
import json, resource, sys
from hpe_tasks.serving.process import starting
if sys.argv[1:] == []:
    with starting():
        pass
def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [bytearray(8 << 20) for _ in range(3)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
use()
print(json.dumps({"pages": min(use() for _ in range(3))}))
"""


def test_memory_of_an_image_is_kept_for_the_next() -> None:
    pages = said_by(_MEMORY)["pages"]
    assert isinstance(pages, int)
    assert pages < 0.1 * 3 * (8 << 20) / os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("content", [b"", b"x", b"ab" * 3_000_000], ids=len)
def test_the_digest_of_a_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    digest = FileDigest(file)
    assert digest.result() == digest.result() == (len(content), hashlib.sha256(content).hexdigest())


def test_a_file_that_cannot_be_read_says_so_when_it_is_asked_for(tmp_path: Path) -> None:
    digest = FileDigest(tmp_path / "nothing")
    with pytest.raises(StorageError, match="nothing cannot be read"):
        digest.result()


@pytest.fixture
def broken(tmp_path: Path) -> VerifiedModel:
    """A model whose maps are not finite, whatever the image."""
    verified = tiny_model(tmp_path)
    network = onnx.load(verified.file)
    for weights in network.graph.initializer:
        array = numpy_helper.to_array(weights)
        if array.dtype == np.float32:
            weights.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), weights.name))
    onnx.save(network, verified.file)
    return verified


def test_a_rehearsal_runs_the_model_before_anybody_asks(broken: VerifiedModel) -> None:
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        PoseService(SETTINGS, OneModel(broken))


def test_without_a_rehearsal_the_first_request_is_the_first_run(
    broken: VerifiedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {"image": base64_of(encoded(photo()))}
    assert PoseService(SETTINGS, OneModel(broken), rehearse=False)(event, Context())["statusCode"] == 500
    assert "NaN or infinite" in capsys.readouterr().out
    whole = PoseService(SETTINGS, OneModel(tiny_model(tmp_path / "whole")), rehearse=False)
    assert whole(event, Context())["statusCode"] == 200
