from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from hpe_tasks.contract.frozen import frozen, replace


@frozen
class Point:
    x: float
    y: float
    name: str = ""

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x must not be negative")

    @property
    def doubled(self) -> Point:
        return replace(self, x=2 * self.x)


@frozen(eq=False)
class Apart:
    x: list[int]


@pytest.mark.parametrize(
    "point", [Point(1, 2), Point(1, y=2), Point(y=2, x=1), Point(1, 2, "")], ids=["by place", "mixed", "by name", "all"]
)
def test_fields_are_given_by_place_or_by_name(point: Point) -> None:
    assert (point.x, point.y, point.name) == (1, 2, "")
    assert point == Point(1, 2)
    assert hash(point) == hash(Point(1, 2))
    assert repr(point) == "Point(x=1, y=2, name='')"
    assert point != Point(1, 2, "a")
    assert point != (1, 2, "")


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [
        ((1,), {}, "y is missing"),
        ((1, 2, "a", 3), {}, "takes 3 values, not 4"),
        ((1, 2), {"z": 3}, "z is not a field"),
        ((1, 2), {"y": 3}, "y is given twice"),
        ((), {}, "x, y is missing"),
    ],
)
def test_a_record_is_whole_or_refused(values: tuple[Any, ...], named: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Point(*values, **named)


def test_it_is_checked_and_does_not_change() -> None:
    point = Point(1, 2)
    with pytest.raises(ValueError, match="negative"):
        replace(point, x=-1)
    for change in (lambda: setattr(point, "x", 3), lambda: setattr(point, "new", 3), lambda: delattr(point, "x")):
        with pytest.raises(AttributeError, match="frozen"):
            change()
    assert point.doubled == Point(2, 2)


def test_copies_are_equal() -> None:
    point = Point(1, 2, "a")
    assert copy.deepcopy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point


def test_without_eq_a_record_is_equal_to_itself_alone() -> None:
    apart = Apart([1])
    assert apart != Apart([1])
    assert apart == apart
    assert {apart}


def test_what_ships_defines_no_data_class() -> None:
    shipped = "import sys, hpe_tasks.serving.service; print('dataclasses' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", shipped], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
