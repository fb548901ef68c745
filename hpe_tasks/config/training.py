"""What a training is asked to do: light enough for `hpe --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from hpe_tasks.config.base import SAMPLE, Frozen
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.paper_schedules import PAPER_SCHEDULES
from hpe_tasks.networks import ARCHITECTURES
from hpe_tasks.pose.codecs import CodecName

if TYPE_CHECKING:
    TrainedArchitecture = str
else:
    # One of the networks that the project builds: the choices of --help.
    TrainedArchitecture = Literal[tuple(name for name, network in ARCHITECTURES.items() if not network.from_file)]


class TrainingConfig(Frozen):
    """Network, schedule and augmentation of a training."""

    architecture: TrainedArchitecture = Field(default="pose_mobilenet", description="Network to train.")
    skeleton: Literal["coco17", "mpii16", "efficientpose16"] = Field(
        default="coco17", description="Joints that the network learns; those that the data set lacks have no target."
    )
    codec: CodecName | None = Field(
        default=None,
        description="What the network learns to give, as `model.codec`; where nothing is set, heatmaps, or with "
        "aimet_pose part-affinity fields.",
    )
    input_width: int = Field(default=96, ge=32, le=1024, description="Width of the network's input in pixels.")
    input_height: int = Field(
        default=128,
        ge=32,
        le=1024,
        description="Height of the network's input in pixels. For aimet_pose both are for images that are wider than "
        "high; the others are presented with the two swapped.",
    )
    width_multiplier: float = Field(default=0.5, gt=0, le=2, description="Channel multiplier of pose_mobilenet.")
    initial_weights: str | None = Field(
        default=None,
        min_length=1,
        description="Checkpoint to start from, a path or `sample`; random weights where there is none.",
    )
    new_head: bool = Field(
        default=False,
        description="Take from initial_weights the layers that the network has as well, and let the others, such as "
        "those of another codec, start at random.",
    )
    train_split: str = Field(default="train", min_length=1, description="Split to learn from.")
    val_split: str | None = Field(default="val", description="Split to measure AP on; none to leave that out.")
    epochs: int = Field(
        default=26, ge=1, description="Passes over the persons of the split (aimet_pose: the images with persons)."
    )
    warm_up_epochs: float = Field(default=1.0, ge=0, description="Epochs in which the learning rate rises.")
    batch_size: int = Field(default=32, ge=2, le=1024, description="Persons (aimet_pose: images) in one step.")
    optimizer: Literal["adamw", "adam"] = Field(
        default="adamw", description="What changes the weights; `adam` is what most papers on poses trained with."
    )
    learning_rate: float = Field(default=3e-3, gt=0, description="Highest learning rate of the optimizer.")
    weight_decay: float = Field(default=0.02, ge=0, description="Weight decay of the optimizer.")
    beta2: float = Field(
        default=0.999,
        gt=0,
        lt=1,
        description="Decay of the optimizer's mean of squares; less suits a training of few steps.",
    )
    drop_epochs: tuple[int, ...] = Field(
        default=(),
        description="Epochs after which the learning rate is multiplied by drop_factor; where there is none, it falls "
        "along a cosine.",
    )
    drop_factor: float = Field(default=0.1, gt=0, lt=1, description="Factor on the learning rate at drop_epochs.")
    gradient_clip_norm: float | None = Field(
        default=None, gt=0, description="Largest norm of a step's gradients, which are scaled down to it."
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Measure and save an exponential moving mean of the weights, of which this share stays in each "
        "step, such as 0.999.",
    )
    divergence_factor: float = Field(
        default=100.0,
        gt=1,
        description="Stop when a step's loss is this many times the mean of the first ten, as when it is no number.",
    )
    freeze_backbone: bool = Field(
        default=False,
        description="Leave the layers of initial_weights as they are, but for those that give the outputs: for few "
        "images.",
    )
    early_stop: int | None = Field(
        default=None,
        ge=1,
        description="Stop after so many measurements of AP in a row that were no better than the best before, and "
        "save the weights of the best.",
    )
    sigma: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of a target in cells of the network's output: heatmap pixels, SimCC bins. "
        "Where nothing is set, 1.25 for heatmaps, 0.875 for part-affinity fields, and for SimCC what RTMPose takes.",
    )
    flip_probability: float = Field(default=0.5, ge=0, le=1, description="Share of crops that are mirrored.")
    rotation_degrees: float = Field(default=15.0, ge=0, le=180, description="Largest turn of a crop.")
    scale_range: float = Field(default=0.15, ge=0, lt=1, description="Largest change of a crop's size, as a share.")
    shift_range: float = Field(default=0.04, ge=0, lt=1, description="Largest shift of a crop, as a share of its size.")
    colour_jitter: float = Field(default=0.2, ge=0, lt=1, description="Largest change of brightness and contrast.")
    bfloat16: bool | None = Field(
        default=False,
        description="Compute in bfloat16 where that is safe; weights stay float32. Twice as fast on processors with "
        "instructions for it (AVX512_BF16, AMX) and slower on others: null decides by that.",
    )
    float16: bool = Field(
        default=False,
        description="Compute in float16 where that is safe, with scaled gradients; weights stay float32. For GPUs "
        "without bfloat16.",
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Largest part of a batch that is computed at once; a step takes the gradients of all its parts. "
        "Where a GPU's memory does not suffice it is halved.",
    )
    loading_threads: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Threads that make batches; where nothing is set, one on a CPU, and with a GPU up to eight.",
    )
    evaluate_every: int = Field(default=4, ge=1, description="Measure AP after every so many epochs.")
    save_every: int = Field(default=2, ge=1, description="Save interim weights after every so many epochs.")
    state_every_s: float = Field(
        default=120.0, ge=0, description="Save what a killed training goes on from after every so many seconds."
    )
    state_every_steps: int | None = Field(default=None, ge=1, description="Save it after every so many steps, too.")
    cache_mb: int = Field(default=2000, ge=0, description="Memory for decoded images, in MB (1e6 bytes).")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where to train.")
    devices: int = Field(
        default=1, ge=1, le=64, description="GPUs of this machine that share each batch, a process for each."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the weights, the order and the augmentation.")

    def model_config_for(self, checkpoint: str) -> ModelConfig:
        """Describe the network that is trained, with its weights in `checkpoint`."""
        return ModelConfig(
            architecture=self.architecture,
            checkpoint=checkpoint,
            skeleton=self.skeleton,
            input_width=self.input_width,
            input_height=self.input_height,
            width_multiplier=self.width_multiplier,
            **ARCHITECTURES[self.architecture].input,
            **({} if self.codec is None else {"codec": self.codec}),
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.model_config_for("unused")
        if self.train_split == self.val_split:
            raise ValueError(f"train_split and val_split are both {self.train_split!r}")
        if self.new_head and self.initial_weights is None:
            raise ValueError("new_head says what becomes of initial_weights: set these as well")
        if self.freeze_backbone and self.initial_weights is None:
            raise ValueError("freeze_backbone leaves the layers of initial_weights as they are: set these as well")
        if self.early_stop is not None and self.val_split is None:
            raise ValueError("early_stop judges by AP on val_split: set that as well")
        if list(self.drop_epochs) != sorted({epoch for epoch in self.drop_epochs if 0 < epoch < self.epochs}):
            raise ValueError(f"drop_epochs must rise, from 1 to {self.epochs - 1}")
        if self.devices > self.batch_size:
            raise ValueError("devices share a batch: batch_size must not be less")
        if self.float16 and self.bfloat16:
            raise ValueError("float16 and bfloat16 exclude each other")
        return self


SAMPLE_STAGES: tuple[TrainingConfig, ...] = (
    # Small crops cost half as much, and teach the network most of what it needs.
    TrainingConfig(),
    TrainingConfig(
        input_width=128,
        input_height=192,
        sigma=1.5,
        epochs=8,
        warm_up_epochs=0.3,
        learning_rate=1.5e-3,
        evaluate_every=2,
        save_every=1,
    ),
)
"""How the shipped sample checkpoint was trained, on the sample data set: each stage starts from the one before."""

_AIMET_POSE = TrainingConfig(
    architecture="aimet_pose",
    # Half of the pictures' size costs a quarter, and most people are still a dozen cells high.
    input_width=200,
    input_height=152,
    epochs=5,
    warm_up_epochs=0.2,
    batch_size=8,
    learning_rate=2e-3,
    weight_decay=0.01,
    beta2=0.99,
    sigma=0.875,
    rotation_degrees=6.0,
    scale_range=0.25,
    shift_range=0.08,
    colour_jitter=0.12,
    bfloat16=None,
    evaluate_every=1,
    save_every=1,
)

AIMET_POSE_SAMPLE_STAGES: tuple[TrainingConfig, ...] = (
    _AIMET_POSE,
    _AIMET_POSE.model_copy(
        update={"input_width": 248, "input_height": 184, "epochs": 2, "warm_up_epochs": 0.1, "learning_rate": 5e-4}
    ),
)
"""A bottom-up network that finds the people of the sample data set after some minutes on two cores."""

SIMCC_SAMPLE_STAGES: tuple[TrainingConfig, ...] = (
    TrainingConfig(
        codec="simcc",
        initial_weights=SAMPLE,
        new_head=True,
        epochs=4,
        warm_up_epochs=0.3,
        learning_rate=2e-3,
        beta2=0.99,
        evaluate_every=1,
        save_every=1,
    ),
)
"""A pose_mobilenet with a SimCC head: it begins with what the sample's network has learnt, all but its heatmaps."""

SCHEDULES: dict[str, tuple[TrainingConfig, ...]] = {
    "sample": SAMPLE_STAGES,
    "aimet_pose_sample": AIMET_POSE_SAMPLE_STAGES,
    "simcc_sample": SIMCC_SAMPLE_STAGES,
    **{name: (TrainingConfig(**settings),) for name, settings in PAPER_SCHEDULES.items()},
}
"""What `hpe train --schedule NAME` does: stages on the sample data set, and what papers did on COCO."""
