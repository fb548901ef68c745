"""Running Great Expectations: rules over tables, and what they found as problems and as one page of Data Docs."""

from __future__ import annotations

import copy
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from hpe_tasks.data.validation.data_docs import SuiteTable, one_page
from hpe_tasks.errors import HpeError, shortened
from hpe_tasks.records.inputs import DatasetProblem, Lookalike, SplitCounts
from hpe_tasks.storage.files import storage_errors

_SHOWN = 5


@dataclass(frozen=True)
class Suite:
    """Rules over one table, whose rows have a `label` that a person can look up."""

    name: str
    rows: pd.DataFrame
    rules: list[Expectation]


@dataclass(frozen=True)
class ValidationOutcome:
    """What the expectations found; `data_docs` is one HTML file that needs nothing else.

    Attributes:
        problems: Expectations that are not met.
        warnings: Those that are only warned of, and records at fault within the share that an expectation allows.
        lookalikes: Calibration images that look like an evaluation image.
    """

    problems: tuple[DatasetProblem, ...]
    warnings: tuple[DatasetProblem, ...]
    splits: tuple[SplitCounts, ...]
    checks_run: int
    data_docs: Path
    lookalikes: tuple[Lookalike, ...] = ()


def suites_of(
    files: pd.DataFrame,
    readable: str,
    splits: tuple[pd.DataFrame, list[Expectation]],
    inside: Callable[[], Iterable[Suite]],
) -> Iterator[Suite]:
    """The suites of a data set in any form, each as soon as the one before is done.

    Args:
        files: The files of the layout.
        readable: What a readable annotation file is, as the end of a sentence.
        splits: The splits that could be read, with their rules; without any, only the files are judged.
        inside: The suites of what the splits hold.
    """
    yield Suite("files", files, layout_rules(readable))
    rows, rules = splits
    if len(rows):
        yield Suite("splits", rows, rules)
        yield from inside()


def run_suites(name: str, suites: Iterable[Suite], splits: pd.DataFrame, out: Path, digest: str) -> ValidationOutcome:
    """Run rules over the tables of a data set.

    Args:
        name: Of the kind of data set, as Great Expectations calls its source.
        suites: The tables and their rules, made with `rule`.
        splits: A row for each split: its `label`, and how many `images`, `annotations` and `persons` it holds.
        out: Folder for the Data Docs; nothing is written elsewhere.
        digest: Content digest of the data set, shown in the Data Docs.

    Raises:
        HpeError: Great Expectations itself failed on an expectation.
        StorageError: The Data Docs cannot be written.
    """
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    source = context.data_sources.add_pandas(name)
    problems: list[DatasetProblem] = []
    warnings: list[DatasetProblem] = []
    tables: list[SuiteTable] = []
    for asked in suites:
        batch = source.add_dataframe_asset(asked.name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=asked.name, expectations=asked.rules))
        validation = context.validation_definitions.add(
            gx.ValidationDefinition(name=asked.name, data=batch, suite=suite)
        )
        result = validation.run(
            batch_parameters={"dataframe": asked.rows},
            result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["label"]},
        )
        # Great Expectations returns them in an order of its own.
        order = [expectation.description for expectation in asked.rules]
        results = sorted(result.results, key=lambda r: order.index(r.expectation_config.description))
        found = [(_is_broken(result), problem) for result in results for problem in _at_fault(result)]
        problems += [problem for broken, problem in found if broken]
        warnings += [problem for broken, problem in found if not broken]
        met = sum(bool(result.success) for result in results)
        tables.append(SuiteTable(asked.name, len(asked.rows), met, len(results), _table(results)))
    data_docs = out / "data_docs.html"
    with storage_errors(data_docs):
        out.mkdir(parents=True, exist_ok=True)
        page = one_page(tables, broken=len(problems), warnings=len(warnings), digest=digest, version=gx.__version__)
        data_docs.write_text(page, encoding="utf-8")
    counts = tuple(
        SplitCounts(split=row.label, images=row.images, annotations=row.annotations, persons=row.persons)
        for row in splits.itertuples()
    )
    return ValidationOutcome(tuple(problems), tuple(warnings), counts, sum(table.checks for table in tables), data_docs)


def rule(
    check: str, description: str, says: str, example: str = "{label}", *, only_warns: bool = False
) -> dict[str, Any]:
    """What is said of an expectation: as a rule in the Data Docs, and of the records that break it.

    Args:
        check: Name of the check in `DatasetProblem`.
        description: The rule, as a sentence; no two rules of a suite say the same.
        says: What is wrong with records that break it; their number follows.
        example: How one of them is named, from the columns of its row.
        only_warns: Whether a run goes on with records that break it.
    """
    meta = {"check": check, "says": says, "example": example, "only_warns": only_warns}
    return {"description": description, "meta": meta}


def some_rows(check: str, description: str, says: str) -> Expectation:
    """The rule that a table is not empty."""
    return gxe.ExpectTableRowCountToBeBetween(min_value=1, **rule(check, description, says))


def layout_rules(annotations: str) -> list[Expectation]:
    """That the files of the layout are there and can be read.

    Args:
        annotations: What a readable annotation file is, as the end of a sentence.
    """
    return [
        gxe.ExpectColumnValuesToBeInSet(
            column="present",
            value_set=[True],
            **rule(
                "layout_present",
                "Every split has its annotation file and its image folder.",
                "Missing files or folders",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            **rule(
                "annotations_readable",
                f"Every annotation file is {annotations}.",
                "Annotation files that cannot be read",
                "{fault}",
            ),
        ),
    ]


def person_count_rules(min_persons: int) -> list[Expectation]:
    """That both splits show enough persons."""
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="calibration_persons",
            min_value=1,
            **rule(
                "enough_persons",
                "The calibration split shows a person with labelled joints.",
                "Calibration splits without a person with labelled joints",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="evaluation_persons",
            min_value=min_persons,
            **rule(
                "enough_persons",
                f"The evaluation split shows at least {min_persons} persons with labelled joints.",
                f"Evaluation splits with fewer than {min_persons} persons (dataset.min_persons)",
                "{label}: {evaluation_persons} persons",
            ),
        ),
    ]


def image_file_rules(max_failed: float) -> list[Expectation]:
    """That image files exist and decode, but for a share of `max_failed`."""
    allowed = f", but for {max_failed:.1%} of them" if max_failed else ""
    return [
        gxe.ExpectColumnValuesToBeInSet(
            column="exists",
            value_set=[True],
            mostly=1 - max_failed,
            **rule("images_exist", f"Every image's file exists in the split's folder{allowed}.", "Missing image files"),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="decode_fault",
            mostly=1 - max_failed,
            **rule(
                "images_decode",
                f"Every image file decodes to its end{allowed}.",
                "Image files that cannot be decoded",
                "{label}: {decode_fault}",
            ),
        ),
    ]


def disjoint_rules(columns: Mapping[str, str]) -> list[Expectation]:
    """That no calibration image is an evaluation image.

    Args:
        columns: What they must not have in common, by column. Equal content under two names is only warned of: COCO
            itself holds such copies, and calibration leaves them out.
    """
    return [
        *(
            gxe.ExpectColumnValuesToBeInSet(
                column=column,
                value_set=[False],
                **rule(
                    "splits_disjoint",
                    f"No calibration image has {what} of an evaluation image.",
                    f"Calibration images with {what} of an evaluation image",
                ),
            )
            for column, what in columns.items()
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="content_shared",
            value_set=[False],
            **rule(
                "contents_disjoint",
                "No calibration image has the content of an evaluation image; those that do are not drawn.",
                "Calibration images with the content of an evaluation image, which are not drawn",
                only_warns=True,
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="looks_like",
            **rule(
                "pictures_disjoint",
                "No calibration image looks like an evaluation image: re-encoded, scaled or brightened; those that do "
                "are drawn with dataset.calibrate_on_lookalikes only.",
                "Calibration images that look like an evaluation image",
                "{label}: like {looks_like}",
                only_warns=True,
            ),
        ),
    ]


def _examples(result: Any) -> tuple[str, ...]:
    """The first records that break an expectation, as a person can look them up."""
    rows: list[dict[str, Any]] = result.result.get("partial_unexpected_index_list") or []
    return tuple(dict.fromkeys(shortened(result.expectation_config.meta["example"].format(**row)) for row in rows))


def _is_broken(result: Any) -> bool:
    return not result.success and not result.expectation_config.meta["only_warns"]


def _at_fault(result: Any) -> Iterator[DatasetProblem]:
    """The records that break an expectation in one sentence, also when it allows that many."""
    meta: Mapping[str, Any] = result.expectation_config.meta
    if result.exception_info.get("raised_exception"):
        raise HpeError(
            f"The check {meta['check']!r} could not be run: {result.exception_info['exception_message']}",
            hint="Please report this with the data set's annotation files.",
        )
    # A rule about the whole table counts no records.
    count = result.result.get("unexpected_count", int(not result.success))
    if count:
        yield DatasetProblem(
            check=meta["check"], message=f"{meta['says']}: {count}.", count=count, examples=_examples(result)[:_SHOWN]
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
