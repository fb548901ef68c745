"""The suite of data sets whose annotations have COCO's form: files, splits, images and annotations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.expectation import Expectation

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.own_joints import UNKNOWN_SIGMA
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
from hpe_tasks.data.validation.inspection import Inspection, inspect
from hpe_tasks.pose.skeletons import COCO17

BORDER_PX = 1.0
"""How far boxes and labelled joints may exceed the image: COCO's boxes do by rounding."""

MOSTLY_INSIDE = 0.999
"""Share of persons whose box and joints must be inside the image: large real data sets have a few that are not."""


def validate_coco(
    root: Path, config: DatasetConfig, out: Path, digest: str, *, max_failed: float = 0.0
) -> ValidationOutcome:
    """Check the two splits of a data set whose annotations have COCO's form; see `validate_dataset`."""
    found = inspect(root, config.described, calibration=config.calibration_split, evaluation=config.evaluation_split)

    def inside() -> Iterator[Suite]:
        yield Suite("images", found.images, _about_images(found.images, max_failed))
        yield Suite("annotations", found.annotations, _about_annotations(found))

    readable = "JSON with images and annotations"
    suites = suites_of(found.files, readable, (found.splits, _about_splits(config)), inside)
    outcome = run_suites(f"{config.kind}_keypoints", suites, found.splits, out, digest)
    return replace(outcome, lookalikes=found.lookalikes)


def _about_splits(config: DatasetConfig) -> list[Expectation]:
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="category_joints",
            min_value=1,
            **rule(
                "keypoints_category_present",
                "A category names its joints (`keypoints`).",
                "Splits without a category that names its joints",
            ),
        ),
        *([] if config.described.skeleton is not None else [_sigmas_given()]),
        *person_count_rules(config.min_persons),
    ]


def _sigmas_given() -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(
        column="derived_sigmas",
        max_value=0,
        **rule(
            "sigmas_given",
            "A file says the OKS sigma of every joint that no known data set has.",
            f"Splits with joints whose OKS sigma is not known ({UNKNOWN_SIGMA:g} is used)",
            "{label}: {derived_sigmas:.0f} joints",
            only_warns=True,
        ),
    )


def _about_images(images: pd.DataFrame, max_failed: float) -> list[Expectation]:
    if not len(images):
        return [some_rows("images_listed", "An image is listed.", "Annotation files that list no images")]
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **rule(
                "image_records_complete",
                "Every image record has id, file_name, width and height, and of CrowdPose crowdIndex.",
                "Incomplete image records",
                "{label}: {fault}",
            ),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["split", "id"],
            ignore_row_if="any_value_is_missing",
            **rule("image_ids_unique", "Image ids are unique in a split.", "Image records that share an id"),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["split", "file_name"],
            ignore_row_if="any_value_is_missing",
            **rule("file_names_unique", "File names are unique in a split.", "Image records that share a file name"),
        ),
        *image_file_rules(max_failed),
        *(
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A=side,
                column_B=f"file_{side}",
                ignore_row_if="either_value_is_missing",
                mostly=1 - max_failed,
                **rule(
                    "image_sizes_match",
                    f"Every image record has the {side} of its file.",
                    f"Image records with another {side} than their file",
                    f"{{label}}: {side} {{{side}}}, file {{file_{side}}}",
                ),
            )
            for side in ("width", "height")
        ),
        *disjoint_rules({"id_shared": "the id", "name_shared": "the file name"}),
    ]


def _about_annotations(found: Inspection) -> list[Expectation]:
    if not len(found.annotations):
        return [
            some_rows("annotations_listed", "A person is annotated.", "Annotation files without annotations of persons")
        ]
    joints = sorted({int(n) for n in found.splits["category_joints"] if n} or {len(COCO17.joints)})
    shape = " or ".join(f"{n} x 3" for n in joints)
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **rule(
                "annotation_records_complete",
                "Every annotation has id, image_id, bbox, area, num_keypoints and keypoints of the right types.",
                "Incomplete annotations",
                "{label}: {fault}",
            ),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["split", "id"],
            ignore_row_if="any_value_is_missing",
            **rule("annotation_ids_unique", "Annotation ids are unique in a split.", "Annotations that share an id"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="image_listed",
            value_set=[True],
            **rule(
                "annotations_refer_to_images",
                "Every annotation's image is listed.",
                "Annotations of an image that is not listed",
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="joint_numbers",
            value_set=[3 * n for n in joints],
            **rule(
                "keypoints_shape",
                f"Every annotation has {shape} numbers of joints.",
                f"Annotations without {shape} numbers of joints",
                "{label}: {joint_numbers:.0f} numbers",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="odd_visibilities",
            max_value=0,
            **rule(
                "visibilities_valid",
                "Every visibility is 0, 1 or 2.",
                "Annotations with a visibility other than 0, 1 or 2",
            ),
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="num_keypoints",
            column_B="labelled",
            ignore_row_if="either_value_is_missing",
            **rule(
                "num_keypoints_consistent",
                "Every num_keypoints is the number of joints with a visibility above 0.",
                "Annotations with another num_keypoints than labelled joints",
                "{label}: num_keypoints {num_keypoints}, labelled {labelled:.0f}",
            ),
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=column,
                max_value=BORDER_PX,
                mostly=MOSTLY_INSIDE,
                **rule(
                    check,
                    f"{what} is inside the image or exceeds it by at most {BORDER_PX:g} px, "
                    f"for {MOSTLY_INSIDE:.1%} of the persons.",
                    says,
                    f"{{label}}: by {{{column}:.4g}} px",
                ),
            )
            for column, check, what, says in (
                (
                    "joints_out_px",
                    "keypoints_inside_image",
                    "Every labelled joint",
                    "Persons with labelled joints outside the image",
                ),
                ("box_out_px", "boxes_inside_image", "The box", "Persons with a box that leaves the image"),
            )
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=column,
                min_value=0,
                strict_min=True,
                **rule(
                    check,
                    f"The {what} of every person is positive.",
                    f"Persons with a {what} that is not positive",
                    f"{{label}}: {{{column}:g}}",
                ),
            )
            for column, check, what in (
                ("box_width", "boxes_have_size", "box width"),
                ("box_height", "boxes_have_size", "box height"),
                ("area", "areas_positive", "segment area"),
            )
        ),
    ]
