"""Who runs this code, and which commit of it."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path


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
