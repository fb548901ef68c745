"""MATLAB files that would end SciPy's parser are refused before it sees them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import scipy.io

from hpe_tasks.data.mpii.mat import read_mat
from hpe_tasks.data.mpii.mat_elements import check_elements
from hpe_tasks.errors import DatasetError
from support import mpii_original
from support.mpii_factory import write_mpii

FLAGS, DIMENSIONS = (6, 8), (5, 8)


def file_of(variables: dict[str, Any], *, packed: bool = False, format: Literal["5", "4"] = "5") -> bytes:
    content = io.BytesIO()
    scipy.io.savemat(cast(Any, content), variables, do_compression=packed, format=format)
    return content.getvalue()


NUMBERS, TEXT = file_of({"n": np.arange(3.0)}), file_of({"t": "text"})
CELLS = file_of({"c": np.array([1.0, 2.0], dtype=object)})
STRUCT = file_of({"s": {"one": 1.0, "two": 2.0}})


def tag(kind: int, size: int) -> bytes:
    return kind.to_bytes(4, "little") + size.to_bytes(4, "little")


def instead(content: bytes, old: bytes, new: bytes) -> bytes:
    """The file with one part of it changed."""
    assert content.count(old) >= 1
    return content.replace(old, new, 1)


def of_class(content: bytes, old: int, new: int) -> bytes:
    return instead(content, tag(*FLAGS) + bytes([old]), tag(*FLAGS) + bytes([new]))


@pytest.mark.parametrize("packed", [False, True])
def test_sound_files_pass(tmp_path: Path, packed: bool) -> None:
    several = np.array([1, "x", {"k": [1, 2]}, np.zeros((0, 3)), 1 + 2j, True], dtype=object)
    check_elements(file_of({"all": several, "empty": ""}, packed=packed))
    check_elements((write_mpii(tmp_path / "mpii") / "annot" / "gt_valid.mat").read_bytes())
    check_elements(mpii_original.write(tmp_path / "original.mat", [*mpii_original.TRAINING]).read_bytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(file_of({"n": 1.0}, format="4"), "no header of version 5", id="version 4"),
        pytest.param(instead(NUMBERS, b"IM", b"MM"), "no header of version 5", id="no byte order"),
        pytest.param(instead(NUMBERS, b"\0\1IM", b"\0\2IM"), "of version 7.3", id="version 7.3"),
        pytest.param(instead(NUMBERS, tag(9, 24), tag(2399, 24)), "type 2399, which there is not", id="no such type"),
        pytest.param(instead(NUMBERS, tag(9, 24), tag(16, 24)), "type 16, which there is not", id="text"),
        pytest.param(instead(NUMBERS, tag(9, 24), tag(14, 24)), "type 14, which there is not", id="matrix for numbers"),
        pytest.param(instead(NUMBERS, tag(9, 24), tag(9, 25)), "an element of 25 bytes is cut off", id="too long"),
        pytest.param(of_class(NUMBERS, 6, 5), "class 5, which MPII's files do not have", id="sparse"),
        pytest.param(of_class(NUMBERS, 6, 1), "3 matrices should stand in another, and 1 do", id="numbers as cells"),
        pytest.param(of_class(CELLS, 1, 6), "a matrix has 2 elements with numbers", id="cells as numbers"),
        pytest.param(of_class(STRUCT, 2, 1), "1 matrices should stand in another, and 4 do", id="struct as cells"),
        pytest.param(instead(NUMBERS, tag(*DIMENSIONS), tag(6, 8)), "a matrix has no dimensions", id="no dimensions"),
        pytest.param(
            instead(NUMBERS, tag(*DIMENSIONS) + b"\1\0\0\0", tag(*DIMENSIONS) + b"\1\0\0\x80"),
            "a negative dimension",
            id="negative dimension",
        ),
        pytest.param(instead(NUMBERS, tag(*FLAGS), tag(5, 8)), "does not say of which class it is", id="no flags"),
        pytest.param(instead(NUMBERS, b"\1\0\1\0n", b"\2\0\1\0n"), "a matrix has no name", id="no name"),
        pytest.param(instead(NUMBERS, b"\1\0\1\0n", b"\1\0\7\0n"), "a tag has room for 4 bytes", id="full tag"),
        pytest.param(instead(STRUCT, b"\5\0\4\0", b"\5\0\3\0"), "a struct has no field names", id="no field names"),
        pytest.param(instead(STRUCT, b"\5\0\4\0\4", b"\5\0\4\0\5"), "field names are cut off", id="odd names"),
        pytest.param(
            instead(TEXT, tag(14, len(TEXT) - 136), tag(9, len(TEXT) - 136)), "where a matrix", id="no matrix"
        ),
    ],
)
def test_a_file_that_scipy_would_misread_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (path := tmp_path / "changed.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"changed\.mat.*{message}"):
        read_mat(path)


def nested(depth: int) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = np.array([value, 2.0], dtype=object)
    return value


@pytest.mark.parametrize(("make", "message"), [(lambda: file_of({"c": nested(80)}), "64|65 deep")])
def test_depth_is_bounded(tmp_path: Path, make: Callable[[], bytes], message: str) -> None:
    (path := tmp_path / "deep.mat").write_bytes(make())
    with pytest.raises(DatasetError, match=message):
        read_mat(path)
