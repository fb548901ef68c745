"""Changes to JSON texts: values that somebody forgot, exchanged, broke or made too large, and broken texts."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st

_RAW = "\ue000raw\ue000"
"""Begins a text that is to stand in the file as it is, without quotation marks."""

RAW = [
    *("1e999", "-1e999", "1" * 400, "1" * 5000, "NaN", "-Infinity", "-0", "1e-400"),
    *(r'"\ud800"', r'"\u0000"', '{"a":1,"a":2}', "[" * 5000, "[" * 500 + "]" * 500, '{"a":' * 5000, "", "tru", "'a'"),
]

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.5, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**300, 1e308, 1e-320),
    *(math.nan, math.inf, -math.inf, "", " ", "0", "1", "a" * 5000, "../x", "/etc/passwd", "a\0b", "\n", "é", "%s{}"),
    *([], {}, [[]], [None], {"": {}}, [0] * 51, [1, 2, 3, 4], [1.5, 2.5, -3.5, 0], ["nose"], "2026-01-01T00:00:00Z"),
    *(_RAW + text for text in RAW),
]

_CHANGES = ("odd", "odd", "odd", "elsewhere", "without", "twice", "reversed", "nudged", "text", "renamed")


@st.composite
def changed_json(draw: st.DrawFn, value: Any) -> bytes:
    """The text of a JSON value with one to four of its parts changed; now and then its bytes as well."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        value = draw(_changed(value))
    text = _written(value)
    return draw(broken_bytes(text)) if draw(st.integers(0, 9)) == 0 else text


@st.composite
def broken_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes that were cut, overwritten, or filled up."""
    place = draw(st.integers(0, max(len(data) - 1, 0)))
    match draw(st.sampled_from(["cut", "over", "in", "out", "repeat"])):
        case "cut":
            return data[:place]
        case "over":
            new = draw(st.binary(min_size=1, max_size=8))
            return data[:place] + new + data[place + len(new) :]
        case "in":
            return data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place:]
        case "out":
            return data[:place] + data[place + draw(st.integers(1, 16)) :]
        case _:
            piece = data[place : place + draw(st.integers(1, 64))]
            return data[:place] + piece * draw(st.integers(2, 50)) + data[place:]


@st.composite
def _changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with one part changed: paths are drawn from the top, so that few large lists do not hide all else."""
    parent: Any = [value]
    top, key = parent, 0
    while True:
        here = parent[key]
        inner = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        if not inner or draw(st.integers(0, 4)) == 0:
            break
        parent, key = here, draw(st.sampled_from(inner))
    _change(draw, parent, key, value)
    return top[0] if top else None


def _change(draw: st.DrawFn, parent: Any, key: Any, root: Any) -> None:
    here = parent[key]
    match draw(st.sampled_from(_CHANGES)):
        case "odd":
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        case "elsewhere":
            parts = [root, *(root.values() if isinstance(root, dict) else root if isinstance(root, list) else [])]
            parent[key] = copy.deepcopy(draw(st.sampled_from(parts)))
        case "without":
            del parent[key]
        case "twice" if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(here))
        case "reversed" if isinstance(here, list):
            here.reverse()
        case "nudged" if isinstance(here, int | float):
            parent[key] = draw(st.sampled_from([here + 1, -here, here * 1e10, here / 3, str(here), [here], bool(here)]))
        case "text" if isinstance(here, str):
            parent[key] = draw(
                st.sampled_from([here.upper(), here + " ", here[1:], here * 50, here + "\0", "é" + here])
            )
        case "renamed" if isinstance(parent, dict):
            parent[draw(st.sampled_from([str(key) + "s", "", str(key).upper(), *map(str, parent)]))] = parent.pop(key)
        case _:
            parent[key] = draw(st.sampled_from([None, -1, "", [], {}]))


def _written(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    for raw in RAW:
        text = text.replace(json.dumps(_RAW + raw, ensure_ascii=False), raw)
    return text.encode("utf-8", "surrogatepass")
