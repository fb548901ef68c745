"""The command `hpe verify`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.cli.options import (
    DEFAULT_MODEL,
    DEFAULT_REGISTRY,
    EXIT_GATE_FAILED,
    JsonOption,
    RegistryOption,
    print_json,
)

if TYPE_CHECKING:
    from hpe_tasks.verification import VerifiedVersion

_MARKS = {"passed": "[green]✓[/green]", "failed": "[red]✗[/red]", "not_made": "[yellow]–[/yellow]", "not_asked": "–"}
_HOW = {"digest": "digest", "signature": "signature", "comparison": "compared", "computation": "computed again"}


def verify(
    what: Annotated[
        str, typer.Argument(metavar="VERSION|CHANNEL", help="A version, or the channel whose version is meant.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="MODEL", help="Name of the model.")] = DEFAULT_MODEL,
    registry: RegistryOption = DEFAULT_REGISTRY,
    public_key: Annotated[
        str | None,
        typer.Option("--public-key", help="Key that it must be signed with, as `hpe public-key` prints it; or two."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="DIR|FILE",
            help="The data set of the version, as `dataset.source` of a run: matches are made again with it.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Count a check that cannot be made of this version as failed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a published version from its registry alone; exits with 1 where something is wrong.

    Digests and sizes of all files, the manifest's bytes, the version and the signatures; and from what is published
    beside it the figures, their intervals and the gate are computed again. With --dataset what was found is also
    matched with the annotations again; another data set than the version's is refused. Without --public-key the keys
    are those of HPE_PUBLIC_KEY.
    """
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.contract.names import VERSION
    from hpe_tasks.contract.public_keys import read_public_keys
    from hpe_tasks.storage.s3 import S3Location, make_client
    from hpe_tasks.verification import verify_version

    settings = Settings.from_environment()
    if public_key is not None:
        keys = read_public_keys(public_key, called="--public-key")
    else:
        keys = read_public_keys(settings.public_key)
    meant = {"version" if re.fullmatch(VERSION, what) else "channel": what}
    found = verify_version(
        make_client(),
        S3Location.parse(registry),
        name,
        public_keys=keys,
        dataset=dataset,
        cache=settings.cache,
        **meant,
    )
    if as_json:
        print_json(found)
    else:
        _print(found)
    if found.failed or (strict and found.not_made):
        raise typer.Exit(EXIT_GATE_FAILED)


def _print(found: VerifiedVersion) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    by = f", which channel {found.channel} serves" if found.channel else ""
    table = Table("", "check", "how", "found", title=f"{found.name} {found.version}{by}")
    for check in found.checks:
        table.add_row(_MARKS[check.outcome], check.title, _HOW[check.how], escape(check.found))
    console = Console()
    console.print(table)
    passed = len(found.checks) - len(found.failed) - len(found.not_made) - len(found.not_asked)
    told = f"{passed} of {len(found.checks)} checks passed"
    if found.failed:
        told += f", {len(found.failed)} failed: {', '.join(check.title for check in found.failed)}"
    if found.not_made:
        told += f"; {len(found.not_made)} could not be made of this version"
    if found.not_asked:
        told += f"; {len(found.not_asked)} need the data set: give --dataset"
    console.print(f"{told}.", highlight=False)
