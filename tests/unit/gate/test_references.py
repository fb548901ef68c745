from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.recipes import RECIPES
from hpe_tasks.gate.published import published_figures
from hpe_tasks.gate.references import PublishedFigure, Reference, compare
from hpe_tasks.records.evaluation import ProtocolFingerprint
from support import sample_records as records

ROWS = (
    PublishedFigure("R50", "fp32", 0.704, 0.763, architecture="pose_resnet_50"),
    PublishedFigure("R101", "fp32", 0.714, 0.771, architecture="pose_resnet_101"),
    PublishedFigure("W8A8", "quantsim", 0.690, recipe=RECIPES["w8a8_per_tensor"]),
)
PER_TENSOR = RECIPES["w8a8_per_tensor"]
# As records.fingerprint has them.
JOINTS = 2


def reference(**protocol: Any) -> Reference:
    return Reference("Paper", "Table 1", "ap", ROWS, 0.003, JOINTS, protocol)


def test_a_figure_of_the_same_protocol_is_within_the_tolerance_or_not() -> None:
    measured = [records.report("quantsim", 0.6869), None, records.report("fp32", 0.707)]
    r50, w8a8 = compare(reference(split="val"), measured, architecture="pose_resnet_50", recipe=PER_TENSOR)
    # 0.707 - 0.704 is 0.0030000000000000027 in floating point.
    assert (r50.published.label, r50.ours, r50.ours_second, r50.within) == ("R50", 0.707, 0.5, True)
    assert r50.difference == pytest.approx(0.003)
    assert (w8a8.within, w8a8.difference) == (False, pytest.approx(-0.0031))


def test_the_run_s_network_decides_which_figures_are_shown() -> None:
    rows = compare(reference(), [records.report("fp32", 0.71)], architecture="pose_resnet_101", recipe=PER_TENSOR)
    assert [row.published.label for row in rows] == ["R101", "W8A8"]
    assert rows[1].ours is None  # not measured


@pytest.mark.parametrize(
    ("wanted", "changes", "obstacle"),
    [
        pytest.param({"split": "val2014"}, {"split": "val2017"}, "val2017 instead of val2014", id="split"),
        pytest.param({"num_images": 40_504}, {"num_images": 79}, "79 of 40,504 images", id="fewer images"),
        pytest.param({"num_images": 79}, {"num_images": 5000}, "5,000 instead of 79 images", id="more images"),
        pytest.param({"num_persons": 2958}, {"num_persons": 5}, "5 of 2,958 persons", id="persons"),
        pytest.param({"box_source": "detector"}, {}, "annotated boxes instead of a detector's boxes", id="boxes"),
        pytest.param({"flip_test": True}, {}, "without flip test", id="no flip test"),
        pytest.param({"flip_test": False}, {"flip_test": True}, "with flip test", id="flip test"),
        pytest.param({"subset": False}, {"subset": True}, "a subset of the split", id="subset"),
        pytest.param({"input_size": (256, 256)}, {}, "input 192×256 instead of 256×256", id="input"),
        pytest.param({"decoder": "dark"}, {"decoder": "argmax"}, "decoder argmax instead of dark", id="other"),
    ],
)
def test_figures_of_another_protocol_are_shown_but_not_compared(
    wanted: dict[str, Any], changes: dict[str, Any], obstacle: str
) -> None:
    measured = [records.report("fp32", 0.704, **changes)]
    row = compare(reference(**wanted), measured, architecture="pose_resnet_50", recipe=PER_TENSOR)[0]
    assert row.ours == 0.704
    assert (row.difference, row.within) == (None, None)
    assert row.obstacles == (obstacle,)


def test_every_difference_is_named() -> None:
    wanted = reference(split="val2014", num_images=40_504, box_source="detector")
    row = compare(
        wanted, [records.report("fp32", 0.8, num_images=79)], architecture="pose_resnet_50", recipe=PER_TENSOR
    )[0]
    assert row.obstacles == (
        "val instead of val2014",
        "79 of 40,504 images",
        "annotated boxes instead of a detector's boxes",
    )


def test_another_metric_is_not_compared() -> None:
    measured = [records.report("fp32", 88.0, metric="pckh")]
    row = compare(reference(), measured, architecture="pose_resnet_50", recipe=PER_TENSOR)[0]
    assert (row.ours, row.within, row.obstacles) == (None, None, ("PCKh instead of AP",))


@pytest.mark.parametrize(
    ("recipe", "obstacle"),
    [
        pytest.param(RECIPES["w8a8_per_channel"], "w8a8_per_channel (tf_enhanced) instead of", id="per channel"),
        pytest.param(
            QuantizationRecipe(granularity="per_tensor", scheme="min_max"), "w8a8_per_tensor_min_max", id="scheme"
        ),
        pytest.param(QuantizationRecipe(granularity="per_tensor", param_bw=4), "w4a8_per_tensor", id="bits"),
        pytest.param(QuantizationRecipe(granularity="per_tensor", calibration_images=7), "", id="other images only"),
    ],
)
def test_a_quantized_figure_is_compared_with_the_same_recipe_only(recipe: QuantizationRecipe, obstacle: str) -> None:
    measured = [records.report("fp32", 0.704), records.report("quantsim", 0.690)]
    r50, w8a8 = compare(reference(), measured, architecture="pose_resnet_50", recipe=recipe)
    assert r50.within
    assert w8a8.within == (None if obstacle else True)
    assert " ".join(w8a8.obstacles).startswith(obstacle)


def test_figures_over_other_joints_or_with_unread_images_are_not_compared() -> None:
    partly = records.report("fp32", 0.704, failed=("a.jpg",))
    row = compare(reference(), [partly], architecture="pose_resnet_50", recipe=PER_TENSOR)[0]
    assert (row.ours, row.within) == (0.704, None)
    assert row.obstacles == ("1 of 100 images could not be measured",)
    fewer = records.report("fp32", 0.704, joint_map=(("nose", 0, 0),))
    row = compare(reference(), [fewer], architecture="pose_resnet_50", recipe=PER_TENSOR)[0]
    assert row.obstacles == ("1 instead of 2 joints",)


def test_one_figure_may_have_a_protocol_of_its_own() -> None:
    """HRNet's authors measured in a detector's boxes, the AIMET model zoo in annotated ones."""
    authors, zoo = (
        PublishedFigure("authors", "fp32", 0.744),
        PublishedFigure("zoo", "fp32", 0.765, protocol={"box_source": "ground_truth"}),
    )
    both = replace(reference(box_source="detector"), rows=(authors, zoo))
    first, second = compare(both, [records.report("fp32", 0.764)], architecture="x", recipe=PER_TENSOR)
    assert first.obstacles == ("annotated boxes instead of a detector's boxes",)
    assert (second.obstacles, second.within) == ((), True)
    with pytest.raises(ValueError, match="names what no fingerprint has: boxes"):
        replace(both, rows=(replace(zoo, protocol={"boxes": "annotated"}),))


def test_a_measurement_without_a_number_is_not_compared() -> None:
    row = compare(reference(), [records.report("fp32", None)], architecture="pose_resnet_50", recipe=PER_TENSOR)[0]
    assert (row.ours, row.difference, row.within) == (None, None, None)


def test_a_protocol_that_no_fingerprint_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="names what no fingerprint has: images"):
        reference(images=5000)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.reference is not None])
def test_the_references_of_presets_can_be_met(name: str) -> None:
    reference = PRESETS[name].reference
    assert reference is not None
    published = published_figures(reference)
    assert published.tolerance > 0
    # Were a value of another type than the fingerprint's, no run could ever be compared.
    joint_map = tuple((f"joint {i}", i, i) for i in range(published.joints))
    architecture = PRESETS[name].values["model"]["architecture"]
    for row in published.rows:
        if row.architecture in (None, architecture):
            wanted = {**published.protocol, **row.protocol}
            fields = records.fingerprint().model_dump() | wanted | {"joint_map": joint_map}
            protocol = ProtocolFingerprint.model_validate(fields)
            assert {field: getattr(protocol, field) for field in wanted} == wanted
            report = records.report(row.runtime, row.value, metric=published.metric)
            report = report.model_copy(update={"fingerprint": protocol})
            recipe = row.recipe or PER_TENSOR
            rows = compare(published, [report], architecture=architecture, recipe=recipe)
            compared = {c.published: c for c in rows}[row]
            assert compared.within
            assert compared.difference == 0
