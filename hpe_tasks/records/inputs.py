"""The data set and the checkpoint that a run starts from."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen
from hpe_tasks.pose.skeletons import Skeleton
from hpe_tasks.records.base import Artifact, Record


class DatasetSkeleton(Frozen):
    """The joints of a data set that brings its own, and the limbs between them."""

    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]

    @property
    def skeleton(self) -> Skeleton:
        """As drawing takes it."""
        return Skeleton(name="dataset", joints=self.joints, limbs=self.limbs)


class FetchedDataset(Record):
    """A data set that is at hand.

    Attributes:
        source: The address that it came from.
        digest: SHA-256 over the annotation files and images of the run's splits; the same bytes on any machine.
        boxes_sha256: SHA-256 of the file with detected boxes; None without one.
        num_files: Files that the digest covers.
        own_joints: Of a data set that brings its own; None for another, and where its annotations do not say them.
    """

    source: str
    digest: str
    num_files: int
    size_bytes: int
    boxes_sha256: str | None = None
    own_joints: DatasetSkeleton | None = None


class FetchedCheckpoint(Record):
    """The checkpoint's bytes, as they were fetched.

    Attributes:
        trained_on: What the file itself says that it was trained on; None where it says nothing.
    """

    source: str
    file: Artifact
    trained_on: str | None = None


class DatasetProblem(Frozen):
    """One expectation that the data set does not meet.

    Attributes:
        check: Name of the expectation.
        message: What is wrong, in a sentence.
        count: How many files or records are at fault.
        examples: The first few, by file name or id.
    """

    check: str
    message: str
    count: int
    examples: tuple[str, ...] = ()


class SplitCounts(Frozen):
    """What a split holds. `persons` have at least one labelled joint and are not marked as a crowd."""

    split: str
    images: int
    annotations: int
    persons: int


class Lookalike(Frozen):
    """A calibration image that shows what an evaluation image shows, though their files differ.

    Attributes:
        image: Id of COCO, file name of MPII.
        like: File name of the evaluation image.
    """

    image: int | str
    file_name: str
    like: str


class DatasetValidation(Record):
    """The outcome of the data set's expectations, kept whether or not they were met.

    Attributes:
        lookalikes: All that there are; none in records of older versions.
        warnings: What a run goes on with, such as calibration images that are copies of evaluation images.
    """

    passed: bool
    checks_run: int
    problems: tuple[DatasetProblem, ...]
    warnings: tuple[DatasetProblem, ...] = ()
    splits: tuple[SplitCounts, ...]
    data_docs: Artifact
    lookalikes: tuple[Lookalike, ...] = ()
