"""What a kind of data set is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hpe_tasks.pose.skeletons import Skeleton

MetricName = Literal["coco_oks_ap", "mpii_pckh", "crowdpose_oks_ap"]
"""How accuracy is measured, as a protocol fingerprint names it."""

GateMetric = Literal["ap", "pckh"]
"""What the gate judges of it: an AP in [0, 1], or the mean PCKh at 0.5 in percent."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie, relative to its root.

    Attributes:
        annotations: A split's annotation file; `{split}` stands for its name.
        images: The folders that a split's images may lie in, the usual one first.
        beside: Whether more than the splits' own files counts in the annotations' folder, which is then taken whole.
        originals: File names (a glob pattern) of annotations in another form, which are converted.
        sigmas: A file that may say the OKS sigmas.
        also: Another name that annotation files may have, in the same folder.
    """

    annotations: str
    images: tuple[str, ...]
    beside: bool = False
    originals: str | None = None
    sigmas: str | None = None
    also: str | None = None

    @property
    def annotation_folder(self) -> str:
        """Name of the annotations' folder."""
        return self.annotations.rpartition("/")[0]

    def annotation_names(self, split: str) -> tuple[str, ...]:
        """File names that a split's annotations may have, the usual one first."""
        patterns = (self.annotations.rpartition("/")[2], *(() if self.also is None else (self.also,)))
        return tuple(pattern.format(split=split) for pattern in patterns)

    def annotation_path(self, root: Path, split: str) -> Path:
        """A split's annotations in a data set's folder: of the usual name, unless only another one is there."""
        usual, *others = (root / self.annotation_folder / name for name in self.annotation_names(split))
        return usual if usual.is_file() else next((path for path in others if path.is_file()), usual)

    def image_folders(self, split: str) -> tuple[str, ...]:
        """Names of the folders that a split's images may lie in, the usual one first."""
        return tuple(name.format(split=split) for name in self.images)

    def image_folder(self, root: Path, split: str) -> Path:
        """The folder of a split's images: the usual one, unless only another one is there."""
        usual, *others = (root / name for name in self.image_folders(split))
        return usual if usual.is_dir() else next((folder for folder in others if folder.is_dir()), usual)

    def parts(self, splits: Sequence[str], *, images: bool) -> list[tuple[str, ...]]:
        """What a source must hold, each part by the names that it may have, folders with a slash at the end."""
        parts: list[tuple[str, ...]] = []
        for split in splits:
            parts.append((f"{self.annotation_folder}/" if self.beside else self.annotations.format(split=split),))
            if images:
                parts.append(tuple(f"{name}/" for name in self.image_folders(split)))
        return list(dict.fromkeys(parts))


@dataclass(frozen=True)
class CrowdLevels:
    """How crowded an image is: a number in [0, 1] of its record.

    Attributes:
        field: Name of the number.
        medium: Images below are easy, those from here on medium.
        hard: Images above are hard.
    """

    field: str
    medium: float
    hard: float

    def level(self, index: float) -> Literal["easy", "medium", "hard"]:
        """The level of an image with this number."""
        return "easy" if index < self.medium else "hard" if index > self.hard else "medium"


@dataclass(frozen=True)
class DatasetKind:
    """A kind of data set: what it looks like on disk, which joints it labels, and how a model is measured on it.

    Attributes:
        name: As `dataset.kind` names it.
        title: As people name it.
        format: How its annotation files are read: those of COCO's form, or of MPII's.
        splits: The splits for calibration and for evaluation that it usually has.
        skeleton: Its joints and limbs; None where each data set brings its own.
        sigmas: The OKS sigma of each joint by its name; empty where another measure is used, or the files say them.
        groups: Joints whose accuracy is reported together.
        metric: How accuracy is measured.
        gate_metric: What the gate judges of it.
        agreement: What stands beside a drawn pose, in the report's words.
        area_of_box: Share of a person's box that is its area, where the annotations have none that counts.
        crowd_levels: How its images are told apart by their crowds; None where they are not.
        renames: Whether its joints have the skeleton's names, whatever its files call them.
        is_drawn: Whether the project can draw one: the source `sample`.
        has_addresses: Whether image records may hold their images' addresses (`images_by_url`).
        takes_detections: Whether a detector's boxes and whole images can take the place of the annotated crops.
    """

    name: str
    title: str
    format: Literal["coco", "mpii"]
    layout: Layout
    splits: tuple[str, str]
    skeleton: Skeleton | None
    metric: MetricName
    gate_metric: GateMetric
    agreement: str
    sigmas: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    area_of_box: float | None = None
    crowd_levels: CrowdLevels | None = None
    renames: bool = False
    is_drawn: bool = False
    has_addresses: bool = False
    takes_detections: bool = False

    @property
    def layout_hint(self) -> str:
        """What a data set of this kind holds, in a sentence."""
        images, annotations = self.layout.images[0], self.layout.annotations
        return f"A data set holds {images}/ and {annotations}.".replace("{split}", "<split>")


def named(kinds: Iterable[DatasetKind]) -> str:
    """Their names, quoted, for a message."""
    return " or ".join(repr(kind.name) for kind in kinds)
