"""Whether a data set is fit for a run: a Great Expectations suite over its files, splits, images and annotations."""

from __future__ import annotations

import copy
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.expectation import Expectation
from great_expectations.render.renderer.content_block import ValidationResultsTableContentBlockRenderer
from great_expectations.render.view import DefaultJinjaComponentView

from hpe_tasks.config import DatasetConfig
from hpe_tasks.data.data_docs import SuiteTable, one_page
from hpe_tasks.data.inspection import Inspection, inspect
from hpe_tasks.data.storage import storage_errors
from hpe_tasks.errors import HpeError
from hpe_tasks.results import DatasetProblem, SplitCounts
from hpe_tasks.skeletons import COCO17

BORDER_PX = 1.0
"""How far boxes and labelled joints may exceed the image: COCO's boxes do by rounding."""

MOSTLY_INSIDE = 0.999
"""Share of persons whose box and joints must be inside the image: large real data sets have a few that are not."""

_SHOWN = 5


@dataclass(frozen=True)
class ValidationOutcome:
    """What the expectations found; `data_docs` is one HTML file that needs nothing else."""

    problems: tuple[DatasetProblem, ...]
    splits: tuple[SplitCounts, ...]
    checks_run: int
    data_docs: Path


def validate_dataset(root: Path, config: DatasetConfig, out: Path, digest: str) -> ValidationOutcome:
    """Check the two splits of a data set.

    Every image of both splits is decoded, those that calibration will not draw as well: which ones it draws
    depends on the seed, and the verdict should not.

    Args:
        root: Folder that holds `annotations/` and `images/`.
        config: Names of the splits and the fewest persons.
        out: Folder for the Data Docs; nothing is written elsewhere.
        digest: Content digest of the data set, shown in the Data Docs.

    Raises:
        HpeError: Great Expectations itself failed on an expectation.
        StorageError: The Data Docs cannot be written.
    """
    found = inspect(root, calibration=config.calibration_split, evaluation=config.evaluation_split)
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    source = context.data_sources.add_pandas("coco_keypoints")
    problems: list[DatasetProblem] = []
    tables: list[SuiteTable] = []
    for name, frame, expectations in _suites(found, config):
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        result = validation.run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["label"]},
        )
        # Great Expectations returns them in an order of its own.
        order = [expectation.description for expectation in expectations]
        results = sorted(result.results, key=lambda r: order.index(r.expectation_config.description))
        problems += _problems(results)
        met = sum(bool(r.success) for r in results)
        tables.append(SuiteTable(name, len(frame), met, len(results), _table(results)))
    data_docs = out / "data_docs.html"
    with storage_errors(data_docs):
        out.mkdir(parents=True, exist_ok=True)
        data_docs.write_text(one_page(tables, digest=digest, version=gx.__version__), encoding="utf-8")
    splits = tuple(
        SplitCounts(split=row.label, images=row.images, annotations=row.annotations, persons=row.persons)
        for row in found.splits.itertuples()
    )
    return ValidationOutcome(tuple(problems), splits, sum(table.checks for table in tables), data_docs)


def _checks(check: str, description: str, says: str, example: str = "{label}") -> dict[str, Any]:
    """What is said of an expectation: as a rule in the Data Docs, and of the records that break it (`_problems`)."""
    return {"description": description, "meta": {"check": check, "says": says, "example": example}}


def _suites(found: Inspection, config: DatasetConfig) -> Iterator[tuple[str, pd.DataFrame, list[Expectation]]]:
    yield "files", found.files, _about_files()
    if len(found.splits):
        yield "splits", found.splits, _about_splits(config)
        yield "images", found.images, _about_images(found.images)
        yield "annotations", found.annotations, _about_annotations(found)


def _about_files() -> list[Expectation]:
    return [
        gxe.ExpectColumnValuesToBeInSet(
            column="present",
            value_set=[True],
            **_checks(
                "layout_present",
                "Every split has its annotation file and its image folder.",
                "Missing files or folders",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **_checks(
                "annotations_readable",
                "Every annotation file is JSON with images and annotations.",
                "Annotation files that cannot be read",
                "{fault}",
            ),
        ),
    ]


def _about_splits(config: DatasetConfig) -> list[Expectation]:
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="category_keypoints",
            min_value=1,
            **_checks(
                "keypoints_category_present",
                "A category names its keypoints.",
                "Splits without a category that names its keypoints",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="calibration_persons",
            min_value=1,
            **_checks(
                "enough_persons",
                "The calibration split shows a person with labelled joints.",
                "Calibration splits without a person with labelled joints",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="evaluation_persons",
            min_value=config.min_persons,
            **_checks(
                "enough_persons",
                f"The evaluation split shows at least {config.min_persons} persons with labelled joints.",
                f"Evaluation splits with fewer than {config.min_persons} persons (dataset.min_persons)",
                "{label}: {evaluation_persons} persons",
            ),
        ),
    ]


def _about_images(images: pd.DataFrame) -> list[Expectation]:
    if not len(images):
        return [_some_rows("images_listed", "An image is listed.", "Annotation files that list no images")]
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **_checks(
                "image_records_complete",
                "Every image record has id, file_name, width and height.",
                "Incomplete image records",
                "{label}: {fault}",
            ),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["split", "id"],
            ignore_row_if="any_value_is_missing",
            **_checks("image_ids_unique", "Image ids are unique in a split.", "Image records that share an id"),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["split", "file_name"],
            ignore_row_if="any_value_is_missing",
            **_checks("file_names_unique", "File names are unique in a split.", "Image records that share a file name"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="exists",
            value_set=[True],
            **_checks("images_exist", "Every image's file exists in the split's folder.", "Missing image files"),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="decode_fault",
            **_checks(
                "images_decode",
                "Every image file decodes to its end.",
                "Image files that cannot be decoded",
                "{label}: {decode_fault}",
            ),
        ),
        *(
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A=side,
                column_B=f"file_{side}",
                ignore_row_if="either_value_is_missing",
                **_checks(
                    "image_sizes_match",
                    f"Every image record has the {side} of its file.",
                    f"Image records with another {side} than their file",
                    f"{{label}}: {side} {{{side}}}, file {{file_{side}}}",
                ),
            )
            for side in ("width", "height")
        ),
        *(
            gxe.ExpectColumnValuesToBeInSet(
                column=column,
                value_set=[False],
                **_checks(
                    "splits_disjoint",
                    f"No calibration image has {what} of an evaluation image.",
                    f"Calibration images with {what} of an evaluation image",
                ),
            )
            for column, what in (
                ("id_shared", "the id"),
                ("name_shared", "the file name"),
                ("content_shared", "the content"),
            )
        ),
    ]


def _about_annotations(found: Inspection) -> list[Expectation]:
    if not len(found.annotations):
        return [
            _some_rows(
                "annotations_listed", "A person is annotated.", "Annotation files without annotations of persons"
            )
        ]
    joints = sorted({int(n) for n in found.splits["category_keypoints"] if n} or {len(COCO17.joints)})
    shape = " or ".join(f"{n} x 3" for n in joints)
    return [
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **_checks(
                "annotation_records_complete",
                "Every annotation has id, image_id, bbox, area, num_keypoints and keypoints of the right types.",
                "Incomplete annotations",
                "{label}: {fault}",
            ),
        ),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["split", "id"],
            ignore_row_if="any_value_is_missing",
            **_checks("annotation_ids_unique", "Annotation ids are unique in a split.", "Annotations that share an id"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="image_listed",
            value_set=[True],
            **_checks(
                "annotations_refer_to_images",
                "Every annotation's image is listed.",
                "Annotations of an image that is not listed",
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="keypoint_numbers",
            value_set=[3 * n for n in joints],
            **_checks(
                "keypoints_shape",
                f"Every annotation has {shape} keypoint numbers.",
                f"Annotations without {shape} keypoint numbers",
                "{label}: {keypoint_numbers:.0f} numbers",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="odd_visibilities",
            max_value=0,
            **_checks(
                "visibilities_valid",
                "Every visibility is 0, 1 or 2.",
                "Annotations with a visibility other than 0, 1 or 2",
            ),
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="num_keypoints",
            column_B="labelled",
            ignore_row_if="either_value_is_missing",
            **_checks(
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
                **_checks(
                    check,
                    f"{what} is inside the image or exceeds it by at most {BORDER_PX:g} px, "
                    f"for {MOSTLY_INSIDE:.1%} of the persons.",
                    says,
                    f"{{label}}: by {{{column}:.4g}} px",
                ),
            )
            for column, check, what, says in (
                (
                    "keypoints_out_px",
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
                **_checks(
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


def _some_rows(check: str, description: str, says: str) -> Expectation:
    return gxe.ExpectTableRowCountToBeBetween(min_value=1, **_checks(check, description, says))


def _examples(result: Any) -> tuple[str, ...]:
    """The first records that break an expectation, as a person can look them up."""
    rows: list[dict[str, Any]] = result.result.get("partial_unexpected_index_list") or []
    return tuple(dict.fromkeys(result.expectation_config.meta["example"].format(**row) for row in rows))


def _problems(results: Sequence[Any]) -> Iterator[DatasetProblem]:
    """Failed expectations as one sentence each."""
    for result in results:
        meta: Mapping[str, Any] = result.expectation_config.meta
        if result.exception_info.get("raised_exception"):
            raise HpeError(
                f"The check {meta['check']!r} could not be run: {result.exception_info['exception_message']}",
                hint="Please report this with the data set's annotation files.",
            )
        if not result.success:
            # A rule about the whole table counts no records.
            count = result.result.get("unexpected_count", 1)
            yield DatasetProblem(
                check=meta["check"],
                message=f"{meta['says']}: {count}.",
                count=count,
                examples=_examples(result)[:_SHOWN],
            )


def _table(results: Sequence[Any]) -> str:
    """Great Expectations' own table of the results, with records by name where it would show bare values.

    Its templates do not escape values, and file names come from outside.
    """
    shown = copy.deepcopy(list(results))
    for result in shown:
        result.result["partial_unexpected_list"] = [html.escape(text) for text in _examples(result)]
        result.result.pop("partial_unexpected_counts", None)
    block = ValidationResultsTableContentBlockRenderer.render(shown).to_json_dict()
    rendered: str = DefaultJinjaComponentView().render(
        {"content_block": block, "section_loop": {"index": 1}, "content_block_loop": {"index": 1}}
    )
    return rendered
