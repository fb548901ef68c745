"""What a lock file with hashes holds: distributions, the digests of their files, and which of them asked for which."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpe_tasks.errors import ConfigError

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+) \\")
_HASH = re.compile(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?")
_VIA = re.compile(r"    # (?:via| )(?: (\S.*))?")


@dataclass(frozen=True)
class LockedDistribution:
    """A distribution in a lock.

    Attributes:
        name: As package indexes compare names: lower case, with hyphens.
        sha256: Digests of the files that may be installed, each a wheel or an archive of sources.
        required_by: Names of the distributions of this lock that ask for it.
        asked_for: Whether the project itself asks for it.
    """

    name: str
    version: str
    sha256: tuple[str, ...]
    required_by: tuple[str, ...]
    asked_for: bool


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str, origin: str) -> tuple[LockedDistribution, ...]:
    """The distributions of a lock that `uv pip compile --generate-hashes` wrote; raises ConfigError for any other line.

    Args:
        text: Of the lock.
        origin: Its name, for errors.
    """
    pins: list[tuple[str, str]] = []
    hashes: list[list[str]] = []
    wanted_by: list[list[str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _PIN.fullmatch(line):
            pins.append((normalized(found[1]), found[2]))
            hashes.append([])
            wanted_by.append([])
        elif pins and (found := _HASH.fullmatch(line)):
            hashes[-1].append(found[1])
        elif pins and (found := _VIA.fullmatch(line)):
            wanted_by[-1].append(found[1] or "")
        elif line.strip():
            raise ConfigError(f"Line {number} of {origin} is none of a lock: {line!r}.", hint="Run `make lock`.")
    unsafe = [name for (name, _), digests in zip(pins, hashes, strict=True) if not digests]
    if unsafe or not pins:
        raise ConfigError(f"{origin} holds no digests{f' of {unsafe[0]}' if unsafe else ''}.", hint="Run `make lock`.")
    names = {name for name, _ in pins}
    return tuple(
        LockedDistribution(
            name,
            version,
            tuple(digests),
            tuple(sorted(names & set(by))),
            # By its own name, or by the file that names what a tool's environment needs.
            any(who.startswith(("hpe-tasks", "-r ")) for who in by),
        )
        for (name, version), digests, by in zip(pins, hashes, wanted_by, strict=True)
    )
