from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from hpe_tasks.config import run as run_config
from hpe_tasks.config.run import DestinationConfig
from hpe_tasks.errors import ConfigError, DigestError
from hpe_tasks.serving import served_model
from hpe_tasks.serving.processors import check_processor
from hpe_tasks.serving.served_model import ServedModel
from support import sample_records as records

AVX2, VNNI, GRAVITON = ("x86_64", "avx2"), ("x86_64", "avx2", "avx_vnni"), ("aarch64", "asimddp")

FITS = {
    "any": (True, True, True),
    "x86_64": (True, True, False),
    "arm64": (False, False, True),
    "x86_64_vnni": (False, True, False),
}


def served(processors: Any, tmp_path: Path) -> ServedModel:
    asked = records.run_config(destination=DestinationConfig(processors=processors))
    return ServedModel.from_manifest(records.manifest(records.write_files(tmp_path), config=asked).to_bytes())


@pytest.mark.parametrize(("processors", "fits"), FITS.items(), ids=FITS)
def test_a_model_starts_only_where_it_was_published_for(
    processors: str, fits: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    model = served(processors, tmp_path)
    assert model.processors == processors
    for features, wanted in zip((AVX2, VNNI, GRAVITON), fits, strict=True):
        if wanted:
            check_processor(model, features)
            continue
        with pytest.raises(ConfigError, match="may compute something else than what was measured") as caught:
            check_processor(model, features)
        assert f"destination.processors={processors}" in str(caught.value)
        assert ", ".join(features) in str(caught.value)
        assert "destination.processors=any" in caught.value.hint


def test_a_manifest_that_is_older_than_the_question_is_served_anywhere(tmp_path: Path) -> None:
    older = records.as_published_before_kernels(records.manifest(records.write_files(tmp_path)))
    assert "processors" not in json.loads(older)["serving"]
    assert ServedModel.from_manifest(older).processors == "any"


def test_a_processor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    manifest = json.loads(records.manifest(records.write_files(tmp_path)).to_bytes())
    manifest["serving"]["processors"] = "z80"
    with pytest.raises(DigestError, match=r"serving\.processors is 'z80'"):
        ServedModel.from_manifest(json.dumps(manifest).encode())


def test_where_a_model_may_be_served_is_part_of_its_version(tmp_path: Path) -> None:
    assert served("any", tmp_path).version != served("x86_64", tmp_path).version


def test_publisher_and_function_know_the_same_processors() -> None:
    assert get_args(run_config.Processors) == get_args(served_model.Processors)
