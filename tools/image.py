"""Build an image without a Docker engine, and run a program in it: `python tools/image.py build airflow`.

    apt-get install buildah mmdebstrap bubblewrap
    python tools/image.py build airflow                 # docker/airflow/Dockerfile as it stands
    python tools/image.py run airflow -- bash -c 'airflow db migrate && airflow dags reserialize && airflow dags list'

For machines that can reach Debian and the package index but no registry of images: the base image is made of Debian's
own packages (its Python 3.11 in place of the one that `python:3.11-slim-bookworm` brings), everything else is the
Dockerfile's. What runs does so as the image's user, without rights or a network, and with a read-only root but for
/tmp and the folders that --write names, which are empty and in memory. Needs root. `--store` holds the images, about
2 GB for `airflow`; remove the folder to be rid of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / ".cache" / "images"
BASE = "docker.io/library/python:3.11-slim-bookworm"
PACKAGES = "python3,python3-pip,python3-venv,python-is-python3,ca-certificates"
NEEDED = ("buildah", "mmdebstrap", "bwrap", "setpriv")
WRITABLE = ("/opt/airflow/.airflow",)


class Store:
    """The images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def buildah(self, *words: str) -> str:
        """Run buildah on them; what it says on standard output. It shows its progress itself."""
        places = ("--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run", "--storage-driver", "vfs")
        done = subprocess.run(["buildah", *places, *words], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether an image is there."""
        return bool(self.buildah("images", "--noheading", "--quiet", "--filter", f"reference={image}"))

    def make_base(self) -> None:
        """A stand-in for Python's own image, of Debian's packages."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            tar = f"{folder}/base.tar"
            command = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", tar]
            subprocess.run([*command, *map(str, Path("/etc/apt/sources.list.d").glob("*.sources"))], check=True)
            made = self.buildah("from", "scratch")
            self.buildah("add", "--quiet", made, tar, "/")
        # pip may install here: nobody else looks after this Python.
        allow = "rm -f /usr/lib/python3*/EXTERNALLY-MANAGED"
        self.buildah("run", "--isolation", "chroot", made, "--", "sh", "-c", allow)
        # With the authorities of this machine, which the build mounts: the package index may have one of its own.
        self.buildah("config", "--env", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", made)
        self.buildah("commit", "--rm", made, BASE)

    def build(self, image: str) -> None:
        """Build `docker/<image>/Dockerfile`."""
        if not self.has(BASE):
            self.make_base()
        options = ["--isolation", "chroot", "--pull-never", "--network", "host", "--format", "docker"]
        options += ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--file", f"docker/{image}/Dockerfile"]
        self.buildah("bud", *options, "--tag", f"hpe-{image}", ".")

    def run(self, image: str, words: Sequence[str], writable: Sequence[str]) -> int:
        """Start the image's entry point with these words; its exit status."""
        config = json.loads(self.buildah("inspect", "--type", "image", f"localhost/hpe-{image}"))["Docker"]["config"]
        user = config["User"]
        if not user.isdigit() or user == "0":
            raise SystemExit(f"hpe-{image} runs as {user or 'root'!r}, not as a number other than 0.")
        made = self.buildah("from", "--pull-never", f"localhost/hpe-{image}")
        try:
            sandbox = ["bwrap", "--ro-bind", self.buildah("mount", made), "/", "--dev", "/dev", "--proc", "/proc"]
            sandbox += ["--perms", "1777", "--tmpfs", "/tmp"]
            for place in writable:
                # As a volume of a group that may write.
                sandbox += ["--perms", "0777", "--tmpfs", place]
            sandbox += ["--unshare-pid", "--unshare-ipc", "--unshare-net", "--die-with-parent", "--clearenv"]
            for variable in (*config["Env"], "HOME=/tmp"):
                sandbox += ["--setenv", *variable.split("=", 1)]
            sandbox += ["--chdir", config["WorkingDir"], "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
            drop = ["setpriv", "--reuid", user, "--regid", "0", "--clear-groups", "--inh-caps=-all"]
            command = [*sandbox, *drop, "--bounding-set=-all", *(config["Entrypoint"] or ()), *words]
            return subprocess.run(command, check=False).returncode
        finally:
            self.buildah("rm", made)


def main(asked: Sequence[str] | None = None) -> int:
    """Build, or run and return the program's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=STORE, help="folder of the images (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("build", "run"):
        commands.add_parser(name).add_argument("image", help="a folder below docker/, as airflow")
    run = commands.choices["run"]
    run.add_argument("--write", action="append", help=f"folder that is written to (default: {', '.join(WRITABLE)})")
    given = list(sys.argv[1:] if asked is None else asked)
    # What stands behind -- is the container's, also where it looks like an option of ours.
    end = given.index("--") if "--" in given else len(given)
    options, words = parser.parse_args(given[:end]), given[end + 1 :]
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing or os.geteuid():
        lacks = ", ".join(missing) or "the rights of root"
        raise SystemExit(f"Missing: {lacks}. apt-get install buildah mmdebstrap bubblewrap")
    store = Store(options.store)
    store.folder.mkdir(parents=True, exist_ok=True)
    if options.command == "build":
        store.build(options.image)
        return 0
    return store.run(options.image, words, options.write or WRITABLE)


if __name__ == "__main__":
    sys.exit(main())
