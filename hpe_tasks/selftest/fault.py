"""What a fault is, and how to tell that it was its guard, and no other, that refused it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpe_tasks.errors import HpeError
from hpe_tasks.records.gate import GateDecision

if TYPE_CHECKING:
    from hpe_tasks.selftest.bench import Bench


@dataclass(frozen=True)
class Ruling:
    """Whether the guard has refused a planted fault, and what it said; or what happened instead."""

    refused: bool
    message: str


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: For records and the command line.
        planted: What is wrong, in a few words.
        guard: What is to refuse it.
        plant: Plants it, and lets the guard look at it.
    """

    name: str
    planted: str
    guard: str
    plant: Callable[[Bench], Ruling]


def refusal(do: Callable[[], object], error: type[HpeError], says: str) -> Ruling:
    """What comes of something that the guard is to stop.

    Args:
        do: Where the guard stands.
        error: What it raises.
        says: Regular expression: what tells its message from those of others.
    """
    try:
        do()
    except HpeError as raised:
        if isinstance(raised, error) and re.search(says, raised.message):
            return Ruling(True, raised.message)
        return Ruling(False, f"Another guard stopped it: {raised.message}")
    return Ruling(False, "Nothing stopped it.")


def check_refused(decision: GateDecision, *names: str, inconclusive: bool = False) -> Ruling:
    """What a check of the gate made of a file.

    Args:
        decision: The gate's.
        names: Of the check.
        inconclusive: It is to say that too little was measured to tell, and not that the limit is broken.
    """
    check = next((one for one in decision.checks if one.name in names), None)
    others = "; ".join(one.reason for one in decision.failed if one is not check)
    if check is not None and not check.passed and check.inconclusive == inconclusive:
        return Ruling(True, check.reason)
    said = f"The gate has no check {names[0]}." if check is None else f"The check says: {check.reason}."
    return Ruling(False, f"{said} Others say: {others}." if others else said)
