"""Measuring one file outside of a run: what it is measured on, and whether its address still gives the same bytes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import DatasetError, DigestError
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline.standalone import evaluate_file
from hpe_tasks.storage.files import sha256_file
from support.coco_factory import EVALUATION, write_coco
from support.faulty_server import serve
from support.no_s3 import no_s3


def test_an_address_that_gives_other_weights_is_refused(tmp_path: Path) -> None:
    cache, weights = tmp_path / "cache", sample_checkpoint()
    with serve(weights.read_bytes()) as site:
        settings = {
            "model.checkpoint": f"{site.address}/weights.safetensors?X-Amz-Signature=s3cr3t",
            "dataset.source": str(write_coco(tmp_path / "coco")),
            "dataset.evaluation_split": EVALUATION,
            "dataset.allow_private_addresses": True,
        }
        config = load_config("sample", overrides=settings)
        for _ in range(2):
            assert evaluate_file(config, cache, no_s3).fingerprint.num_persons == 6
        (record,) = (cache / "trusted").iterdir()
        assert json.loads(record.read_text())["sha256"] == sha256_file(weights)
        site.content, site.etag = b"other weights", '"v2"'
        with pytest.raises(DigestError, match="when it was first used") as caught:
            evaluate_file(config, cache, no_s3)
    assert "model.checkpoint_sha256" in caught.value.hint


def test_the_predictions_are_a_file_that_exists(tmp_path: Path) -> None:
    cache, named = tmp_path / "cache", tmp_path / "mine.json"
    settings = {"dataset.source": str(write_coco(tmp_path / "coco")), "dataset.evaluation_split": EVALUATION}
    config = load_config("sample", overrides=settings)
    for _ in range(2):
        kept = evaluate_file(config, cache, no_s3).predictions
        file = Path(kept.uri.removeprefix("file://"))
        assert (sha256_file(file), file.stat().st_size) == (kept.sha256, kept.size_bytes)
        assert isinstance(json.loads(file.read_text()), list)
    # The same predictions are one file, and nothing else is left beside it.
    assert list((cache / "predictions").iterdir()) == [file]
    asked = evaluate_file(config, cache, no_s3, named).predictions
    assert (asked.uri, asked.sha256) == (named.as_uri(), kept.sha256)
    assert list((cache / "predictions").iterdir()) == [file]


def test_annotations_without_images_say_how_images_come(tmp_path: Path) -> None:
    """The user's source takes the place of the preset's, and with it how that one's images come."""
    archive = tmp_path / "annotations.zip"
    name = f"annotations/person_keypoints_{EVALUATION}.json"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(write_coco(tmp_path / "coco") / name, name)
    overrides = {"dataset.source": str(archive), "dataset.evaluation_split": EVALUATION}
    config = load_config("aimet_pose_coco2014", overrides=overrides)
    with pytest.raises(DatasetError, match=rf"has no images/{EVALUATION}/") as caught:
        evaluate_file(config, tmp_path / "cache", no_s3)
    assert "dataset.image_archives" in caught.value.hint
    assert "dataset.images_by_url" in caught.value.hint
