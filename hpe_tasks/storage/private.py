"""Files for their user and group alone: what a run was asked, and what it found in data, is nobody else's."""

from __future__ import annotations

from pathlib import Path

FILE_MODE = 0o660
FOLDER_MODE = 0o770
"""What a umask may only take more from."""

_OTHERS = 0o007


def make_private_folder(folder: Path, root: Path) -> None:
    """Make a folder, closed to others, and with it those above it down from `root`; what is there stays as it is."""
    root.parent.mkdir(parents=True, exist_ok=True)
    above = [one for one in (folder, *folder.parents) if one == root or root in one.parents]
    for one in reversed(above):
        one.mkdir(mode=FOLDER_MODE, exist_ok=True)


def close_to_others(path: Path) -> None:
    """Take all rights of others from a file, or from a folder and everything in it."""
    inside = path.rglob("*") if path.is_dir() else ()
    for one in (path, *inside):
        mode = one.lstat().st_mode
        if mode & _OTHERS and not one.is_symlink():
            one.chmod(mode & 0o7777 & ~_OTHERS)
