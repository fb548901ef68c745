"""Serve a published model on this machine; for `make serve`.

On a fresh checkout nothing is published yet. Where the sample is asked for, in the registry of this checkout's own S3
server, it is published first, by the DAG as `make run` does it: what is served is always a file that was proved.

Exit status: that of `hpe serve`; or of the run that was to publish the sample, where that did not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from hpe_tasks.cli.options import DEFAULT_CHANNEL, DEFAULT_MODEL, DEFAULT_REGISTRY
from hpe_tasks.errors import HpeError
from hpe_tasks.local.processes import start_guarded

PRESET = "sample"


def is_served(name: str, channel: str, registry: str) -> bool:
    """Whether a channel of the registry serves a version of the model; raises HpeError where that cannot be asked."""
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location, make_client

    return channel in ModelRegistry(make_client(), S3Location.parse(registry)).channels(name)


def publish_sample() -> int:
    """Run the DAG with the sample; its exit status."""
    print(
        f"{DEFAULT_REGISTRY} holds no model yet. The sample is quantized, proved and published first, as `make run` "
        "does it; that takes some minutes, once.",
        flush=True,
    )
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("run_dag.py"), "--preset", PRESET])
    try:
        return process.wait()
    except KeyboardInterrupt:
        # A terminal's Ctrl-C has reached the run too, which ends by itself.
        return process.wait()


def main() -> int:
    """Publish the sample where nothing is there to serve, then become `hpe serve`."""
    parser = argparse.ArgumentParser(description="Serve a published model on this machine.")
    parser.add_argument("--name", default=DEFAULT_MODEL)
    parser.add_argument("--channel", default=DEFAULT_CHANNEL)
    parser.add_argument("--registry", default=DEFAULT_REGISTRY)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--own-store", action="store_true", help="the registry is on this checkout's S3 server: the sample may go there"
    )
    options = parser.parse_args()
    asked = (options.name, options.channel, options.registry)
    if options.own_store and asked == (DEFAULT_MODEL, DEFAULT_CHANNEL, DEFAULT_REGISTRY):
        try:
            served = is_served(*asked)
        except HpeError as error:
            print(error, file=sys.stderr)
            return 2
        if not served and (status := publish_sample()) != 0:
            print(
                "The sample was not published, so there is nothing to serve: what stands above says why.",
                file=sys.stderr,
            )
            return status
    hpe = str(Path(sys.executable).with_name("hpe"))
    where = ["--channel", options.channel, "--registry", options.registry, "--port", str(options.port)]
    os.execv(hpe, [hpe, "serve", options.name, *where])


if __name__ == "__main__":
    start_guarded()
    sys.exit(main())
