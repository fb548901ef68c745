"""What was found of a published version, check by check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.errors import HpeError, TransientError

Outcome = Literal["passed", "failed", "not_made", "not_asked"]

How = Literal["digest", "signature", "comparison", "computation"]
"""How something was checked: its bytes have a digest that is known; a key has signed it; it agrees with what is said
elsewhere in the registry; or it was computed again from what is stored there."""


class NotMadeError(Exception):
    """A check that cannot be made of this version, and why."""


class NotAskedError(Exception):
    """A check that can be made when something more is given, and what."""


class VerificationCheck(Frozen):
    """One check.

    Attributes:
        name: For programs.
        title: For people.
        found: What was found, or what is wrong, or why the check cannot be made.
    """

    name: str
    title: str
    how: How
    outcome: Outcome
    found: str


class VerifiedVersion(Frozen):
    """What was found of a version.

    Attributes:
        channel: The channel that it was asked for by; None where the version was.
        manifest_sha256: Of its manifest's bytes.
    """

    registry: str
    name: str
    version: str
    channel: str | None
    manifest_sha256: str
    checks: tuple[VerificationCheck, ...]

    @property
    def failed(self) -> tuple[VerificationCheck, ...]:
        """What is wrong."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def not_made(self) -> tuple[VerificationCheck, ...]:
        """What cannot be checked of this version."""
        return tuple(check for check in self.checks if check.outcome == "not_made")

    @property
    def not_asked(self) -> tuple[VerificationCheck, ...]:
        """What would be checked if more were given."""
        return tuple(check for check in self.checks if check.outcome == "not_asked")


def carried_out(name: str, title: str, how: How, check: Callable[[], str]) -> VerificationCheck:
    """Make a check, which says what it found; raises TransientError where the registry cannot be reached."""
    outcome: Outcome = "passed"
    try:
        found = check()
    except NotMadeError as error:
        outcome, found = "not_made", str(error)
    except NotAskedError as error:
        outcome, found = "not_asked", str(error)
    except TransientError:
        raise
    except HpeError as error:
        outcome, found = "failed", error.message
    return VerificationCheck(name=name, title=title, how=how, outcome=outcome, found=found)
