"""What a cluster of processes asks of this machine: programs, ports, and a user for PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody listens on; different ones."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def program(name: str, package: str) -> str:
    """Path of a program; Debian keeps PostgreSQL's outside of PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        raise SystemExit(f"{name} is needed (Debian package {package}); its service need not run.")
    return found


@dataclass(frozen=True)
class User:
    """Who a program runs as.

    Attributes:
        name: None for whoever runs this.
    """

    name: str | None = None
    uid: int = 0
    gid: int = 0

    @property
    def arguments(self) -> dict[str, object]:
        """Arguments of `subprocess.Popen`."""
        return {} if self.name is None else {"user": self.uid, "group": self.gid, "extra_groups": ()}

    def own(self, folder: Path) -> None:
        """Make a folder that belongs to this user alone."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.name is not None:
            os.chown(folder, self.uid, self.gid)


def unprivileged_user() -> User:
    """PostgreSQL refuses to run as root: its own user then, or else nobody."""
    if os.geteuid() != 0:
        return User()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid)
    raise SystemExit("PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody.")
