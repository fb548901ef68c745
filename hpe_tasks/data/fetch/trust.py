"""Trust on first use: what an address gave the first time is recorded, and other content is refused from then on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from hpe_tasks.config.addresses import public_address
from hpe_tasks.errors import DigestError
from hpe_tasks.storage.files import digest_of

log = logging.getLogger(__name__)

_REMOTE = ("http://", "https://", "s3://")


def check_trusted(
    source: str,
    found: str,
    pinned: str | None,
    *,
    option: str,
    read: Callable[[str], bytes | None],
    write: Callable[[str, bytes], None],
) -> None:
    """Compare the content that an address gave with what it gave before; the first time, record it.

    Files of this machine are not checked: their owner may change them. A digest that the configuration promises, and
    the content has, replaces what was recorded.

    Args:
        source: A path or an address.
        found: SHA-256 of the content.
        pinned: SHA-256 that the configuration promises and that `found` was compared with already; None without one.
        option: Where such a digest is set, for the error.
        read: Reads a record by its name, None where there is none: `Workspace.read`.
        write: Writes a record in one piece: `Workspace.write`.

    Raises:
        DigestError: The content is another than recorded, or the record cannot be read.
    """
    if not source.lower().startswith(_REMOTE):
        return
    # The address itself may hold passwords and signatures.
    name = f"trusted/{digest_of(source)[:16]}.json"
    address = public_address(source)
    recorded = read(name)
    known = None if recorded is None else _digest_in(recorded, name, address)
    if known == found:
        return
    if known is not None and pinned is None:
        raise DigestError(
            f"{address} now has the SHA-256 {found}, but it was {known} when it was first used.",
            hint=f"If the change is meant, set {option} to the new one to accept it; if not, ask its owner.",
        )
    write(name, json.dumps({"address": address, "sha256": found}).encode())
    if pinned is None:
        log.warning(
            "%s is used for the first time and its SHA-256 was not promised: %s is recorded and enforced from now on.",
            address,
            found,
        )


def _digest_in(record: bytes, name: str, address: str) -> str:
    try:
        return str(json.loads(record)["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise DigestError(
            f"The record {name} of what {address} gave cannot be read.",
            hint="Delete it in the workspace (of `hpe evaluate`: in the cache) to record the address anew.",
        ) from error
