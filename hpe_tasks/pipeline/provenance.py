"""Who runs this code, which commit of it, and with what."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hpe_tasks.errors import ConfigError
from hpe_tasks.registry.build_provenance import BuildEnvironment


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, or HPE_GIT_COMMIT in an image; None where neither is known.

    A commit with local changes to this package ends in `+changes`: its hash alone would not describe what ran.
    """
    given = os.environ.get("HPE_GIT_COMMIT")
    if given:
        return given
    package = Path(__file__).parents[1]
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changes" if _git(package, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def user() -> str:
    """The account that runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return f"uid-{os.getuid()}"


def build_environment() -> BuildEnvironment:
    """The code, its lock and what is installed here, for the provenance of a version."""
    return BuildEnvironment(
        git_commit=git_commit(),
        lock_sha256=_lock_sha256(),
        distributions=dict(sorted(_distributions())),
        python=platform.python_version(),
    )


def _lock_sha256() -> str | None:
    """Of the lock that HPE_LOCK names, in an image, or of that of the checkout; None where there is none."""
    given = os.environ.get("HPE_LOCK")
    lock = Path(given) if given else Path(__file__).parents[2] / "requirements.txt"
    try:
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    except OSError as error:
        if given:
            raise ConfigError(
                f"HPE_LOCK={given!r} cannot be read: {error.strerror or error}.", hint="Correct it, or unset it."
            ) from error
        return None


def _distributions() -> Iterator[tuple[str, str]]:
    """Names, as the package index writes them, and versions of what is installed."""
    for installed in importlib.metadata.distributions():
        # Of a half-removed distribution nothing but its folder is left.
        if "Name" in installed.metadata:
            yield re.sub(r"[-_.]+", "-", installed.metadata["Name"]).lower(), installed.version
