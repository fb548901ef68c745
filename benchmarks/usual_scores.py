"""How many answers the local page calls low, on images of another kind than a version was measured on.

    python benchmarks/usual_scores.py /path/to/coco val2017

reads the version that a channel serves (by default the sample's, in the registry of `make env`) and asks it about each
image of the split as a whole, and about each annotated person of at least 32x32 pixels in his box.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from hpe_tasks.cli.options import DEFAULT_CHANNEL, DEFAULT_MODEL, DEFAULT_REGISTRY
from hpe_tasks.data.coco import load_coco
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.registry.manifest import MODEL_ROLE
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.serving.images import decode_image
from hpe_tasks.serving.pose_finder import PoseFinder
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.storage.s3 import S3Location, make_client

_MAX_PIXELS = 25_000_000
_MIN_AREA = 32**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a data set in COCO's layout")
    parser.add_argument("split")
    parser.add_argument("--name", default=DEFAULT_MODEL)
    parser.add_argument("--channel", default=DEFAULT_CHANNEL)
    parser.add_argument("--registry", default=DEFAULT_REGISTRY)
    options = parser.parse_args()
    registry = ModelRegistry(make_client(), S3Location.parse(options.registry))
    manifest = registry.served(options.name, options.channel)
    usual = manifest.onnx.person_scores
    if usual is None:
        raise SystemExit(f"Version {manifest.version} does not say which scores are usual: publish it again.")
    whole: list[float] = []
    boxed: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = registry.download(manifest, MODEL_ROLE, Path(folder) / "model.onnx")
        finder = PoseFinder(ServedModel.from_manifest(manifest.to_bytes()), file, 1)
        dataset = load_coco(options.folder, options.split)
        for image in dataset.images:
            pixels = decode_image(dataset.image_path(image).read_bytes(), _MAX_PIXELS)
            whole += finder.find(pixels, None)[0].scores.tolist()
            boxes = [person.box for person in dataset.persons(image.id) if person.box[2] * person.box[3] >= _MIN_AREA]
            if boxes and not CODECS[manifest.serving.codec].whole_images:
                boxed += finder.find(pixels, np.array(boxes, np.float64))[0].scores.tolist()
    print(f"{usual.persons} people of the evaluation: median score {usual.median:.3f}, 5 % lower than {usual.low:.3f}")
    for what, scores in (("whole images", whole), ("people in boxes", boxed)):
        if scores:
            low = np.mean(np.array(scores) < usual.low)
            print(f"{len(scores)} {what}: median score {np.median(scores):.3f}, called low: {low:.1%}")


if __name__ == "__main__":
    main()
