"""Measures how fast a training goes and what memory it takes, against a plain loop on the same network and machine.

    python benchmarks/training.py [--network pose_resnet_18] [--batch 16] [--steps 12] [--rounds 3] [--workers N]
        [--device cpu|cuda] [--precision fp32|bf16|fp16] [--data COCO_FOLDER --split train2017] [--json FILE]

The plain loop is what torchvision's own references do: a Dataset that opens an image for each person with Pillow,
transforms.v2 for crop, flip, rotation, scale and colours, a DataLoader with worker processes, Adam, one `zero_grad`,
`backward` and `step`. Both learn the same heatmaps from the same persons with the same batch. They take turns, each in
a process of its own, and the first steps, in which caches fill, do not count. On a GPU its utilisation is read from
nvidia-smi every half a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.contract.cpu import cpu_features, processor_name
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.models import build_model
from hpe_tasks.training.regression import train

WIDTH, HEIGHT, STRIDE, SIGMA = 192, 256, 4, 2.0
ROTATION, SCALE, JITTER = 40.0, 0.3, 0.2
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WARM_STEPS = 3


class PlainCrops(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """A person's crop, its heatmaps, and which joints are labelled, as a tutorial has it."""

    def __init__(self, root: Path, split: str) -> None:
        self._split = load_coco(root, split)
        self._persons = self._split.all_persons()
        self._files = self._split.image_files()
        self._changes = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomAffine(ROTATION, scale=(1 - SCALE, 1 + SCALE)),
                v2.ColorJitter(JITTER, JITTER),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self._persons)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        person = self._persons[index]
        image = Image.open(self._files[person.image_id]).convert("RGB")
        x, y, w, h = person.box
        middle, side = (x + w / 2, y + h / 2), max(w / WIDTH, h / HEIGHT) * 1.25
        left, top = middle[0] - side * WIDTH / 2, middle[1] - side * HEIGHT / 2
        crop = image.transform(
            (WIDTH, HEIGHT), Image.Transform.AFFINE, (side, 0, left, 0, side, top), Image.Resampling.BILINEAR
        )
        points = torch.from_numpy((person.joints[:, :2] - (left, top)) / side).float()
        changed, joints = self._changes(crop, tv_tensors.KeyPoints(points, canvas_size=(HEIGHT, WIDTH)))
        cells = joints.as_subclass(torch.Tensor) / STRIDE
        columns, rows = torch.arange(WIDTH // STRIDE), torch.arange(HEIGHT // STRIDE)
        across = (columns[None] - cells[:, :1]).square()[:, None, :]
        down = (rows[None] - cells[:, 1:]).square()[:, :, None]
        maps = torch.exp(-(across + down) / (2 * SIGMA**2))
        return changed, maps, torch.from_numpy(person.joints[:, 2] > 0).float()


def plain(arguments: argparse.Namespace, root: Path) -> list[float]:
    """When each step was done, in seconds."""
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    model = build_model(config(arguments).model_config_for("unused")).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device.type, enabled=arguments.precision == "fp16")
    loader = DataLoader(
        PlainCrops(root, arguments.split),
        batch_size=arguments.batch,
        shuffle=True,
        num_workers=arguments.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=arguments.workers > 0,
        drop_last=True,
    )
    done: list[float] = []
    while True:
        for batch in loader:
            images, maps, labelled = (part.to(device, non_blocking=True) for part in batch)
            with torch.autocast(device.type, DTYPES.get(arguments.precision), enabled=arguments.precision in DTYPES):
                found = model(images)
            loss = ((found.float() - maps).square() * labelled[:, :, None, None]).sum(dim=(2, 3)).mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if not np.isfinite(loss.item()):
                raise SystemExit("The plain loop diverged.")
            done.append(time.perf_counter())
            if len(done) == arguments.steps + WARM_STEPS:
                return done


class Enough(Exception):
    """Ends a training after so many steps."""


class Clock:
    """Notes when each step is done."""

    def __init__(self, steps: int) -> None:
        self.done: list[float] = []
        self._steps = steps

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Begin."""

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:  # noqa: ARG002
        """Note the time."""
        self.done.append(time.perf_counter())
        if len(self.done) == self._steps:
            raise Enough

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Go on."""

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Go on."""


def config(arguments: argparse.Namespace) -> TrainingConfig:
    return TrainingConfig(
        architecture=arguments.network,
        input_width=WIDTH,
        input_height=HEIGHT,
        train_split=arguments.split,
        val_split=None,
        epochs=10_000,
        batch_size=arguments.batch,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        sigma=SIGMA,
        rotation_degrees=ROTATION,
        scale_range=SCALE,
        shift_range=0.0,
        colour_jitter=JITTER,
        bfloat16=arguments.precision == "bf16",
        float16=arguments.precision == "fp16",
        device=arguments.device,
    )


def product(arguments: argparse.Namespace, root: Path) -> list[float]:
    """When each step was done, in seconds."""
    clock = Clock(arguments.steps + WARM_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(config(arguments), root, Path(folder) / "w.safetensors", [clock])
        except Enough:
            return clock.done
    raise SystemExit("The training ended before it was measured.")


LOOPS = {"plain": plain, "product": product}


@contextmanager
def utilisation(device: str) -> Iterator[list[float]]:
    """The GPU's utilisation in percent, twice a second; nothing on a CPU."""
    found: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not ended.wait(0.5):
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append(float(told.splitlines()[torch.cuda.current_device()]))

    if device == "cpu":
        yield found
        return
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield found
    finally:
        ended.set()
        asking.join()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One loop in this process: its rate and memory."""
    with utilisation(arguments.device) as busy:
        done = LOOPS[arguments.only](arguments, arguments.data)
    told = {"examples_per_s": arguments.batch * arguments.steps / (done[-1] - done[WARM_STEPS - 1])}
    used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Worker processes are told by the largest of them.
    told["memory_mb"] = (used[0] + (arguments.workers if arguments.only == "plain" else 0) * used[1]) / 1000
    if arguments.device == "cuda":
        told["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        told["gpu_busy_percent"] = statistics.mean(busy[len(busy) // 4 :]) if busy else 0.0
    return told


def in_another_process(only: str, data: Path) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", only, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def compare(arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    rounds = [{only: in_another_process(only, data) for only in LOOPS} for _ in range(arguments.rounds)]
    medians = {
        only: {key: statistics.median(one[only][key] for one in rounds) for key in rounds[0][only]} for only in LOOPS
    }
    ratios = [one["product"]["examples_per_s"] / one["plain"]["examples_per_s"] for one in rounds]
    return {
        "processor": processor_name(),
        "features": list(cpu_features()),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "network": arguments.network,
        "precision": arguments.precision,
        "batch": arguments.batch,
        "workers": arguments.workers,
        **medians,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="pose_resnet_18")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=tuple(LOOPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or Path(folder) / "sample"
        if arguments.data is None:
            make_sample(data, SampleSpec(train=60, calibration=1, val=1))
        found = compare(arguments, data)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
