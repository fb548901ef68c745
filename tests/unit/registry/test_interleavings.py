"""Two clients of the registry in every order of their requests, and one that dies at each: nothing is left to luck."""

from __future__ import annotations

from typing import Any

import pytest

from hpe_tasks.registry import channels
from hpe_tasks.storage import s3_objects
from support.interleaving import deaths
from support.registry_bench import PROMOTE, PUBLISH, ROLLBACK, SIGN, Bench, Call, Pair, search

pytestmark = pytest.mark.usefixtures("no_pauses")

PAIRS = [
    (Call(PUBLISH, "new"), Call(PUBLISH, "other")),
    (Call(PUBLISH, "new"), Call(PROMOTE, "first")),
    (Call(PUBLISH, "new"), Call(ROLLBACK)),
    (Call(PROMOTE, "first"), Call(PROMOTE, "first")),
    (Call(PROMOTE, "first"), Call(PROMOTE, "second")),
    (Call(PROMOTE, "first"), Call(ROLLBACK)),
    (Call(PROMOTE, "third"), Call(ROLLBACK)),
    (Call(ROLLBACK), Call(ROLLBACK)),
    (Call(ROLLBACK), Call(PUBLISH, "new")),
    (Call(SIGN), Call(PROMOTE, "first")),
    (Call(SIGN), Call(ROLLBACK)),
]
MORE = [
    (Call(PUBLISH, "new"), Call(PROMOTE, "third")),
    (Call(PUBLISH, "first"), Call(ROLLBACK)),
    (Call(PROMOTE, "first"), Call(PUBLISH, "new")),
    (Call(ROLLBACK), Call(PROMOTE, "third")),
    # Every request of one is for a key that the other asks for as well: ten times as many orders.
    (Call(PUBLISH, "new"), Call(PUBLISH, "new")),
]

NEW_CHANNEL = [
    (Call(PROMOTE, "first"), Call(PROMOTE, "second")),
    (Call(PROMOTE, "first"), Call(PROMOTE, "first")),
    (Call(PUBLISH, "new"), Call(PROMOTE, "first")),
]


CASES = [
    *(pytest.param(pair, True, id="-and-".join(map(str, pair))) for pair in PAIRS),
    *(pytest.param(pair, True, id="-and-".join(map(str, pair)), marks=pytest.mark.long) for pair in MORE),
    *(pytest.param(pair, False, id="new-channel-" + "-and-".join(map(str, pair))) for pair in NEW_CHANNEL),
]


@pytest.mark.parametrize(("calls", "existing"), CASES)
def test_every_order_is_one_after_the_other(bench: Bench, calls: tuple[Call, Call], existing: bool) -> None:
    """The state and all answers are as of one call after the other; who was refused has moved nothing, never both."""
    pair = Pair(bench, calls, bench.with_channel if existing else bench.without_channel)
    orders = search(pair)
    print(f"{orders} orders")
    assert orders >= 9


@pytest.mark.parametrize("call", [Call(PUBLISH, "new"), Call(PROMOTE, "first"), Call(ROLLBACK)], ids=str)
def test_who_dies_anywhere_keeps_nobody_from_anything(bench: Bench, call: Call) -> None:
    """One dies at each of its requests, another does the same; then the first tries again."""
    pair = Pair(bench, (call, call), bench.with_channel)
    for client in pair.clients:
        client.shared = None
    places = 0
    for meeting in deaths(*pair.clients, pair.bench_calls):
        bench.check_visible()
        if not meeting.ended:
            assert bench.state() in {pair.before, call.after(pair.before)}
            continue
        places += 1
        dead, other = pair.clients
        assert not isinstance(other.outcome, BaseException), other.outcome
        expected = call.after(pair.before)
        # Who died after his step back has made it.
        assert bench.state() in {expected, call.after(expected)}
        dead.begin(bench.asked(dead, call, "ada"))
        dead.advance(-1)
        bench.check_visible()
        assert not isinstance(dead.outcome, BaseException) or (call.what == ROLLBACK and not bench.state().history)
    assert places >= 4


def test_the_search_finds_a_lost_update(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the condition of the swap, it is told: this test could fail."""

    def write(*arguments: Any, **_: Any) -> str:
        s3_objects.put_bytes(*arguments)
        return "written"

    monkeypatch.setattr(channels, "put_on_condition", write)
    pair = Pair(bench, (Call(ROLLBACK), Call(PROMOTE, "first")), bench.with_channel)
    with pytest.raises(AssertionError, match="became"):
        search(pair)
