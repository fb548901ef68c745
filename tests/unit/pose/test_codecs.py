"""What holds for every codec."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.models.losses import LOSSES
from hpe_tasks.networks import ARCHITECTURES, OWN_FILE
from hpe_tasks.pose.codecs import CODECS, Codec, CodecName, CropCodec, ImageCodec, crop_codec, image_codec
from hpe_tasks.pose.codecs.codec import channels_second, fits, laid_out

SIZE = (192, 128)
EVERY = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_every_codec_is_listed_by_its_name() -> None:
    assert tuple(CODECS) == get_args(CodecName)
    assert all(codec.name == name for name, codec in CODECS.items())


def test_what_a_codec_says_of_itself_needs_no_numpy() -> None:
    """Airflow reads configurations in every parse of a DAG file."""
    code = (
        "import sys; from hpe_tasks.pose.codecs import CODECS\n"
        "from hpe_tasks.config.model import ModelConfig\n"
        "for name in CODECS: ModelConfig(architecture='onnx', codec=name, checkpoint='m').input_size_for((1, 2))\n"
        "heavy = {'numpy', 'cv2', 'torch', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@EVERY
def test_targets_are_the_outputs_that_a_codec_asks_for(codec: Codec) -> None:
    joints = len(codec.skeleton.joints) if codec.skeleton else 17
    points = np.random.default_rng(0).uniform(20, 100, (2, joints, 2))
    visible = np.ones((2, joints))
    if isinstance(codec, CropCodec):
        targets, weights = codec.encode(points, visible, SIZE, None)
        assert {name: weight.shape for name, weight in weights.items()} == dict.fromkeys(targets, (2, joints))
    elif isinstance(codec, ImageCodec):
        targets = {name: array[None] for name, array in codec.encode(points, visible, SIZE, None).items()}
    wanted = codec.outputs(joints, SIZE)
    assert list(targets) == list(wanted)
    assert all(fits(array.shape, wanted[name]) for name, array in targets.items())
    assert all(array.dtype == np.float32 for array in targets.values())
    assert codec.fault({name: array.shape for name, array in targets.items()}, SIZE) is None


@EVERY
def test_a_training_knows_its_loss(codec: Codec) -> None:
    assert codec.loss in LOSSES


@EVERY
@pytest.mark.parametrize("size", [(192, 128), (128, 192), (64, 64)], ids=["wide", "high", "square"])
def test_images_are_shown_in_one_size_or_in_two(codec: Codec, size: tuple[int, int]) -> None:
    sizes = codec.input_sizes(size)
    assert sizes[0] == size
    assert sizes == ((size, size[::-1]) if codec.whole_images and size[0] != size[1] else (size,))
    for image in ((300, 200), (200, 300), (200, 200)):
        assert codec.input_size_for(size, image) in sizes


def test_codecs_of_the_other_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="'paf' is shown whole images"):
        crop_codec("paf")
    with pytest.raises(TypeError, match="'heatmap' is shown crops"):
        image_codec("heatmap")


@pytest.mark.parametrize(
    ("shape", "wanted", "fitting"),
    [
        pytest.param((1, 17, 64, 48), ("N", 17, "height", "width"), True, id="numbers"),
        pytest.param(("n", None, "h", "w"), ("N", 17, "height", "width"), True, id="free"),
        pytest.param((1, 16, 64, 48), ("N", 17, "height", "width"), False, id="another number"),
        pytest.param((1, 17, 64), ("N", 17, "height", "width"), False, id="another rank"),
        pytest.param((), ("N", 17, "height", "width"), False, id="not stated"),
        pytest.param((2, 17, 64, 48), (3, 17, "height", "width"), False, id="another batch"),
    ],
)
def test_shapes_fit(shape: tuple, wanted: tuple, fitting: bool) -> None:
    assert fits(shape, wanted) == fitting


def test_only_maps_have_a_layout() -> None:
    assert laid_out(("N", 17, "h", "w"), channels_last=True) == ("N", "h", "w", 17)
    assert laid_out(("N", 17, "h", "w"), channels_last=False) == ("N", 17, "h", "w")
    assert laid_out(("N", 17, 384), channels_last=True) == ("N", 17, 384)
    maps, vectors = np.zeros((1, 64, 48, 17), np.float32), np.zeros((1, 17, 384), np.float32)
    assert channels_second(maps, channels_last=True).shape == (1, 17, 64, 48)
    assert channels_second(vectors, channels_last=True).shape == (1, 17, 384)


def test_no_module_compares_names_of_codecs() -> None:
    """A codec is asked for what it is like; whoever compares its name has to be found when another one comes."""
    package = Path(__file__).parents[3] / "hpe_tasks"
    quoted = [f'"{name}"' for name in CODECS]
    compared = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in [*package.rglob("*.py"), *package.rglob("*.js")]
        for line in path.read_text().splitlines()
        if "codec" in line and ("==" in line or "!=" in line or " in " in line) and any(name in line for name in quoted)
    ]
    assert compared == []


def test_a_codec_is_read_quantized_and_served_from_two_files() -> None:
    """Beyond these, SimCC is named where the project builds and trains a network that gives it."""
    package = Path(__file__).parents[3] / "hpe_tasks"
    named = {str(path.relative_to(package)) for path in package.rglob("*.py") if "simcc" in path.read_text().lower()}
    network = {"config/model.py", "models/checkpoint.py", "networks/__init__.py", "networks/simcc_mobilenet.py"}
    training = {"config/training.py", "config/paper_schedules.py", "models/losses.py"}
    assert named - network - training == {"pose/codecs/__init__.py", "pose/codecs/simcc.py"}
    # Of the list of networks the entry of pose_mobilenet names it; a user's file may have any.
    assert ARCHITECTURES[OWN_FILE].codecs == tuple(CODECS)


def test_architectures_have_the_codecs_that_they_give() -> None:
    ModelConfig(checkpoint="w", codec="simcc")
    for architecture, codec in (("pose_resnet_50", "simcc"), ("aimet_pose", "simcc"), ("pose_mobilenet", "paf")):
        with pytest.raises(ValueError, match=f"codec must be .* for {architecture}"):
            ModelConfig(checkpoint="w", architecture=architecture, codec=codec)
