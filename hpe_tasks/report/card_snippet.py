"""The lines of Python with which a reader of a model card runs the file."""

from __future__ import annotations

from collections.abc import Iterator

from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.crops import BOX_PADDING
from hpe_tasks.registry.manifest import Serving

_CROPPED = '''\
import numpy as np
import onnxruntime
from PIL import Image

WIDTH, HEIGHT = {width}, {height}
MEAN, STD = np.float32({mean}), np.float32({std})
JOINTS = {joints}

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def find_joints(picture, box):
    """Joints of the person in box (x, y, w, h), in pixels of the picture: name, x, y, score."""
    x, y, w, h = box
    middle_x, middle_y = x + w / 2, y + h / 2
    w = {padding} * max(w, h * WIDTH / HEIGHT)
    h = w * HEIGHT / WIDTH
    left, top = middle_x - w / 2, middle_y - h / 2
    step = w / WIDTH
    grid = (step, 0, left + (1 - step) / 2, 0, step, top + (1 - step) / 2)
    crop = picture.convert("RGB").transform((WIDTH, HEIGHT), Image.Transform.AFFINE, grid, Image.Resampling.BILINEAR)
    pixels = np.asarray(crop, np.float32){order} / 255
    batch = ((pixels - MEAN) / STD)[None]{layout}
    (maps,) = session.run(["{output}"], {{"{input}": np.ascontiguousarray(batch, np.float32)}})
    maps = maps[0]{output_layout}
    rows, columns = np.divmod(maps.reshape(len(JOINTS), -1).argmax(axis=1), maps.shape[2])
    scores = maps.reshape(len(JOINTS), -1).max(axis=1)
    xs, ys = left + columns * w / maps.shape[2], top + rows * h / maps.shape[1]
    return list(zip(JOINTS, xs.tolist(), ys.tolist(), scores.tolist()))
'''

_OTHER = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
# RGB pixels in [0, 1], less the mean, divided by the deviation.
MEAN, STD = np.float32({mean}), np.float32({std})
pixels = np.zeros(({height}, {width}, 3), np.float32){order}
batch = ((pixels - MEAN) / STD)[None]{layout}
for spec, values in zip(session.get_outputs(), session.run(None, {{"{input}": np.ascontiguousarray(batch)}})):
    print(spec.name, values.shape)
"""


def snippet(serving: Serving) -> Iterator[str]:
    """A block of Python that runs the file, and what it leaves out; with maps of joints down to their places.

    Args:
        serving: How the network is fed, and read.
    """
    codec = CODECS[serving.codec]
    heatmaps = codec.gives_maps and not codec.whole_images
    width, height = serving.input_sizes[0]
    code = (_CROPPED if heatmaps else _OTHER).format(
        width=width,
        height=height,
        mean=list(serving.mean),
        std=list(serving.std),
        joints=list(serving.joints),
        padding=BOX_PADDING,
        order="[..., ::-1]" if serving.channel_order == "bgr" else "",
        layout=".transpose(0, 3, 1, 2)" if serving.input_layout == "nchw" else "",
        output_layout=".transpose(2, 0, 1)" if serving.output_layout == "nhwc" else "",
        input=serving.input.name,
        output=next(iter(serving.outputs.values())).name if heatmaps else "",
    )
    if heatmaps:
        yield "With `model.onnx` from the files below, `pip install onnxruntime pillow`, and a box around a person:"
    else:
        outputs = ", ".join(f"`{kind}` is `{spec.name}`" for kind, spec in serving.outputs.items())
        yield f"With `model.onnx` from the files below and `pip install onnxruntime`; of the outputs {outputs}:"
    yield ""
    yield f"```python\n{code}```"
    yield ""
    if heatmaps:
        yield (
            "The figures above were measured with crops that OpenCV's `warpAffine` makes and the decoder named there, "
            "which this leaves out: joints lie up to half a cell of the maps from theirs. `hpe serve` and the Lambda "
            "function do it exactly."
        )
    else:
        yield (
            f"How people are read from them is the decoder's affair (`{serving.decoder}`): `hpe serve` and the Lambda "
            "function do it."
        )
