"""Whether an MPII data set is fit for a run: a Great Expectations suite over its files, splits, images and persons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.expectation import Expectation

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.mpii.inspection import CLEAR_RATIO, CLEAR_SURPLUS, inspect_mpii
from hpe_tasks.data.validation.expectations import (
    Suite,
    ValidationOutcome,
    disjoint_rules,
    image_file_rules,
    person_count_rules,
    rule,
    run_suites,
    some_rows,
    suites_of,
)

BORDER_PX = 1.0
"""How far labelled joints may exceed the image."""

MOSTLY_INSIDE = 0.9
"""Share of persons whose labelled joints must be inside the image: MPII labels some beyond its border."""


def validate_mpii(
    root: Path, config: DatasetConfig, out: Path, digest: str, *, max_failed: float = 0.0
) -> ValidationOutcome:
    """Check the two splits of an MPII data set in the Simple Baselines layout.

    The calibration split needs no truth; that of the evaluation split is compared with its annotations.

    Args:
        root: Folder that holds `annot/` and `images/`.
        config: Names of the splits and the fewest persons.
        out: Folder for the Data Docs; nothing is written elsewhere.
        digest: Content digest of the data set, shown in the Data Docs.
        max_failed: Largest share of images that may be missing or unreadable.

    Raises:
        HpeError: Great Expectations itself failed on an expectation.
        StorageError: The Data Docs cannot be written.
    """
    found = inspect_mpii(root, calibration=config.calibration_split, evaluation=config.evaluation_split)

    def inside() -> Iterator[Suite]:
        yield Suite("images", found.images, _about_images(found.images, max_failed))
        yield Suite("persons", found.persons, _about_persons(found.persons))

    readable = "readable, and the truth speaks of the persons of its split"
    suites = suites_of(found.files, readable, (found.splits, _about_splits(config)), inside)
    return replace(run_suites("mpii", suites, found.splits, out, digest), lookalikes=found.lookalikes)


def _about_splits(config: DatasetConfig) -> list[Expectation]:
    return [
        *person_count_rules(config.min_persons),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=column,
                max_value=0,
                **rule(
                    "pixels_count_from_one",
                    description,
                    f"Annotation files that {verb} pixels from 0, where MPII counts from 1",
                    f"{{label}}: {{{column}}} more coordinates at pixel 0 than at the last pixel",
                    only_warns=only_warns,
                ),
            )
            for column, description, verb, only_warns in (
                (
                    "clear_zero_surplus",
                    f"Joints do not lie at pixel 0 {CLEAR_RATIO} times as often as at the last pixel, "
                    f"by {CLEAR_SURPLUS} coordinates or more.",
                    "count",
                    False,
                ),
                (
                    "zero_surplus",
                    "Joints lie at pixel 0 no more often than at the last pixel, as they do where pixels count from 1.",
                    "may count",
                    True,
                ),
            )
        ),
    ]


def _about_images(images: pd.DataFrame, max_failed: float) -> list[Expectation]:
    if not len(images):
        return [some_rows("images_listed", "An image is named.", "Annotation files that name no image")]
    return [
        *image_file_rules(max_failed),
        *disjoint_rules({"name_shared": "the file name"}),
    ]


def _about_persons(persons: pd.DataFrame) -> list[Expectation]:
    if not len(persons):
        return [some_rows("persons_listed", "A person is annotated.", "Annotation files without persons")]
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **rule(
                "annotation_records_complete",
                "Every person has image, center, scale, joints and joints_vis of the right types.",
                "Persons with incomplete records",
                "{label}: {fault}",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="joints_out_px",
            max_value=BORDER_PX,
            mostly=MOSTLY_INSIDE,
            **rule(
                "keypoints_inside_image",
                f"Every labelled joint is inside the image or exceeds it by at most {BORDER_PX:g} px, "
                f"for {MOSTLY_INSIDE:.0%} of the persons.",
                "Persons with labelled joints outside the image",
                "{label}: by {joints_out_px:.4g} px",
            ),
        ),
    ]
