"""The table of ranges that were chosen by the joints, and the page that it stands on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpe_tasks.records.joint_ranges import ChosenRange, JointRanges
from hpe_tasks.report.joint_ranges_table import ranges_view
from hpe_tasks.report.page import render_report
from support.run_cases import STATES
from support.run_files import files_of_states


def chosen(layer: str, harm_before: float, harm_after: float) -> ChosenRange:
    return ChosenRange(
        tensors=(f"{layer}.out",),
        operator="Conv",
        layer=layer,
        before=(-29.0717, 29.7639),
        after=(-7.0123, 18.9027),
        harm_before=harm_before,
        harm_after=harm_after,
    )


RANGES = JointRanges(
    chosen=(chosen("stem<1>", 0.08, 0.02), chosen("block", 0.04, -0.0001)),
    looked_at=14,
    error_before=0.1437,
    error_after=0.1147,
    images=24,
    confirmed_on=48,
    evaluations=349,
    seconds=146.0,
)


def test_bars_are_as_long_as_the_harm() -> None:
    view = ranges_view(RANGES)
    assert view is not None
    assert [(row.length_before, row.length_after) for row in view.rows] == [(100.0, 25.0), (50.0, 0.0)]
    assert [(row.before, row.after) for row in view.rows] == [("-29.1 to 29.8", "-7.01 to 18.9")] * 2
    assert [row.harm_after for row in view.rows] == ["0.020", "0.000"]
    assert view.told.startswith("2 activations have another range")
    assert "joint error 0.115 instead of 0.144" in view.told


def test_where_nothing_changed_that_is_said() -> None:
    view = ranges_view(RANGES.model_copy(update={"chosen": (), "error_after": 0.1437}))
    assert view is not None
    assert view.rows == ()
    assert view.told.startswith("No range was changed: of 14 activations")
    assert ranges_view(None) is None


def test_the_page_names_the_layers(tmp_path: Path) -> None:
    records = STATES["published"]()
    assert records.quantized is not None
    records = replace(records, quantized=records.quantized.model_copy(update={"joint_ranges": RANGES}))
    files = files_of_states(tmp_path, {"published": STATES["published"]})["published"]
    page = render_report(records, files, tmp_path / "page.html").read_text()
    assert 'id="joint-ranges"' in page
    assert "<code>stem&lt;1&gt;</code>" in page
    plain = render_report(STATES["published"](), files, tmp_path / "plain.html").read_text()
    assert 'id="joint-ranges"' not in plain
