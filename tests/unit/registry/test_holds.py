"""Pins and retirements against moves and each other: in every order of two clients' requests, with deaths at each."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from hpe_tasks.errors import BadInputError, ChannelConflictError
from support.interleaving import deaths, deaths_between, meetings
from support.registry_bench import (
    CHANNEL,
    PIN,
    PROMOTE,
    PUBLISH,
    RETIRE,
    ROLLBACK,
    SIGN,
    UNPIN,
    UNRETIRE,
    Bench,
    Call,
    Decisive,
    Pair,
    search,
)

pytestmark = pytest.mark.usefixtures("no_pauses")

MOVES = {Call(PROMOTE, "first"): "first", Call(PUBLISH, "first"): "first", Call(ROLLBACK): "second"}
"""Moves, and what the channel serves after them."""

Case = tuple[Call, Call, tuple[Call, ...]]
"""Two calls, and what was done to the channel before."""

OF_A_MOVE: list[Case] = [
    (move, act, before)
    for move, target in MOVES.items()
    for act, before in (
        (Call(PIN), ()),
        (Call(UNPIN), (Call(PIN),)),
        (Call(RETIRE, target), ()),
        (Call(UNRETIRE, target), (Call(RETIRE, target),)),
        (Call(RETIRE, "first" if target == "second" else "second"), ()),
    )
]
OF_ACTS: list[Case] = [
    (Call(PIN), Call(PIN), ()),
    (Call(PIN), Call(UNPIN), (Call(PIN),)),
    (Call(UNPIN), Call(UNPIN), (Call(PIN),)),
    (Call(PIN), Call(UNPIN), ()),
    (Call(PIN), Call(SIGN), ()),
    (Call(PIN), Call(PROMOTE, "third"), ()),
    (Call(PIN), Call(PUBLISH, "new"), ()),
    (Call(PIN), Call(UNRETIRE, "first"), (Call(RETIRE, "first"),)),
    (Call(UNPIN), Call(RETIRE, "first"), (Call(PIN),)),
    (Call(UNPIN), Call(UNRETIRE, "first"), (Call(PIN), Call(RETIRE, "first"))),
    (Call(PIN), Call(RETIRE, "first"), ()),
    (Call(RETIRE, "first"), Call(RETIRE, "first"), ()),
    (Call(RETIRE, "first"), Call(UNRETIRE, "first"), ()),
    (Call(RETIRE, "first"), Call(UNRETIRE, "first"), (Call(RETIRE, "first"),)),
    (Call(UNRETIRE, "first"), Call(UNRETIRE, "first"), (Call(RETIRE, "first"),)),
    (Call(RETIRE, "first"), Call(SIGN), ()),
]
QUICK: set[Case] = {
    (Call(PROMOTE, "first"), Call(PIN), ()),
    (Call(PIN), Call(PROMOTE, "first"), ()),
    (Call(ROLLBACK), Call(UNPIN), (Call(PIN),)),
    (Call(RETIRE, "first"), Call(PROMOTE, "first"), ()),
    (Call(PUBLISH, "first"), Call(UNRETIRE, "first"), (Call(RETIRE, "first"),)),
    (Call(PIN), Call(UNPIN), (Call(PIN),)),
}


def cases(pairs: Iterable[Case]) -> list[object]:
    """Each with either of the two stopped first."""
    found: dict[str, object] = {}
    for one, other, before in pairs:
        for calls in ((one, other), (other, one)):
            quick = (*calls, before) in QUICK
            name = "-".join(map(str, (*calls, *(("after", *before) if before else ()))))
            found[name] = pytest.param(calls, before, id=name, marks=() if quick else pytest.mark.long)
    return list(found.values())


@pytest.mark.parametrize(("calls", "before"), cases([*OF_A_MOVE, *OF_ACTS]))
def test_every_order_is_one_after_the_other(bench: Bench, calls: tuple[Call, Call], before: tuple[Call, ...]) -> None:
    pair = Pair(bench, calls, bench.after(*before), Decisive())
    orders = search(pair)
    print(f"{orders} orders")
    assert orders >= 9


@pytest.mark.parametrize(
    ("calls", "before"),
    cases([case for case in OF_A_MOVE if case[0] != Call(PUBLISH, "first")]),
)
def test_who_dies_while_the_other_is_under_way_leaves_what_one_after_the_other_leaves(
    bench: Bench, calls: tuple[Call, Call], before: tuple[Call, ...]
) -> None:
    """One stands at each of its requests, the other goes on, the first goes on to each that follows, and dies there.

    What the other is told is true, and stays so when a third one moves the channel.
    """
    pair = Pair(bench, calls, bench.after(*before), Decisive())
    heir = pair.clients[0].heir()
    places = 0
    for meeting in deaths_between(*pair.clients, pair.bench_calls):
        pair.check(meeting)
        if not meeting.ended:
            continue
        places += 1
        found = bench.state()
        third = bench.asked(heir, Call(PROMOTE, "first"), "third")
        if Call(PROMOTE, "first").refused(found):
            with pytest.raises(BadInputError):
                third()
            assert bench.state() == found
        else:
            third()
            assert bench.state() == Call(PROMOTE, "first").after(found)
            log, served = bench.log.state("pose"), bench.version(bench.state().served or "")
            assert served not in log.retired, "it has healed"
            assert {pinned.version for pinned in log.pinned.values()} <= {served}, "it has healed"
    assert places >= 9


@pytest.mark.parametrize("act", [Call(PIN), Call(RETIRE, "first")], ids=str)
def test_an_act_whose_maker_dies_is_done_or_not_and_done_when_tried_again(bench: Bench, act: Call) -> None:
    pair = Pair(bench, (act, Call(PROMOTE, "first")), bench.with_channel, Decisive())
    for meeting in deaths(*pair.clients, pair.bench_calls):
        pair.check(meeting)
        if meeting.ended and not act.refused(bench.state()):
            bench.asked(pair.clients[0].heir(), act, "ada")()
            assert bench.state() == act.after(bench.state())


def test_a_pin_that_never_held_is_not_in_the_way_and_counts_no_more(bench: Bench) -> None:
    """Its maker dies before shutting others out, and a move that had looked before comes through."""
    pair = Pair(bench, (Call(PIN), Call(PROMOTE, "first")), bench.with_channel, Decisive())
    heir = pair.clients[0].heir()
    healed = 0
    for meeting in deaths_between(*pair.clients, pair.bench_calls):
        pinned = bench.log.state("pose").pinned.get(CHANNEL)
        if not meeting.ended or pinned is None or bench.contents[pinned.version] == bench.state().served:
            continue
        healed += 1
        assert not bench.state().pinned
        with pytest.raises(BadInputError, match="is not pinned"):
            bench.asked(heir, Call(UNPIN), "third")()
        assert bench.log.state("pose").pinned == {}
        # Back where the pin was meant to hold: it does not come to life again.
        bench.asked(heir, Call(PROMOTE, "third"), "third")()
        assert not bench.state().pinned
        bench.asked(heir, Call(PIN), "third")()
        assert bench.state().pinned
        with pytest.raises((BadInputError, ChannelConflictError)):
            bench.asked(heir, Call(ROLLBACK), "third")()
    assert healed


def test_a_first_promotion_that_meets_a_retirement_is_served_or_refused(bench: Bench) -> None:
    """Nobody can be shut out of a channel that is not there: who makes it takes back the retirement that he has met."""
    pair = Pair(bench, (Call(PROMOTE, "first"), Call(RETIRE, "first")), bench.without_channel, Decisive())
    ends = set()
    for meeting in meetings(*pair.clients, pair.bench_calls):
        bench.check_visible()
        if meeting.ended:
            promoted, retired = (not isinstance(client.outcome, BaseException) for client in pair.clients)
            assert promoted or retired
            assert (bench.pointer() is not None) == promoted
            assert bool(bench.log.state("pose").retired) == (not promoted)
            ends.add((promoted, retired))
    assert {(True, False), (False, True)} <= ends
