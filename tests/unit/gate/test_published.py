"""Published figures are files: what is said of one that is not as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpe_tasks.errors import ConfigError
from hpe_tasks.gate.published import published_figures, read_reference

FIGURES = """\
name: Somebody
source: Table 1
metric: ap
tolerance: 0.005
joints: 17
protocol: {split: val2017, input_size: [192, 256]}
figures:
- {label: FP32, runtime: fp32, value: 0.7, protocol: {box_source: ground_truth}}
"""


def test_a_protocol_is_in_the_types_of_a_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "somebody.yaml"
    file.write_text(FIGURES)
    reference = read_reference(file)
    assert reference.protocol == {"split": "val2017", "input_size": (192, 256)}
    assert [(row.value, row.protocol) for row in reference.rows] == [(0.7, {"box_source": "ground_truth"})]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param(
            "metric: ap", "metric: map", r"metric: Input should be 'ap' or 'pckh' \(given: 'map'\)", id="metric"
        ),
        pytest.param("tolerance", "tolerence", r"'tolerence' \(did you mean tolerance\?\)", id="unknown field"),
        pytest.param("joints: 17\n", "", "joints: Field required", id="missing field"),
        pytest.param("label: FP32, ", "", r"rows\.0\.label: Field required", id="missing label"),
        pytest.param("fp32, value", "fp16, value", r"rows\.0\.runtime: .*\(given: 'fp16'\)", id="runtime"),
        pytest.param("split:", "spilt:", "names what no fingerprint has: spilt", id="protocol"),
        pytest.param("[192, 256]", "[192]", r"input_size\.1: Field required", id="value of the protocol"),
        pytest.param("ground_truth}", "truth}", r"box_source: .*\(given: 'truth'\)", id="protocol of a figure"),
        pytest.param("name: Somebody", "name: [", "are not YAML", id="no yaml"),
    ],
)
def test_figures_that_are_not_right_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = tmp_path / "somebody.yaml"
    assert FIGURES.count(old) == 1
    file.write_text(FIGURES.replace(old, new))
    with pytest.raises(ConfigError, match=says) as error:
        read_reference(file)
    assert str(file) in str(error.value)


def test_unknown_figures_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no published figures 'coco'\. Known: aimet_pose_zoo, hrnet_coco"):
        published_figures("coco")
