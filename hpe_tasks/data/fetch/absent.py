"""Whether a web address can lead to a file at all: one short question, before anybody waits for a download."""

from __future__ import annotations

from requests import exceptions

from hpe_tasks.data.fetch.addresses import PrivateAddressError, get
from hpe_tasks.data.fetch.transports import HttpFile, HttpPatience
from hpe_tasks.errors import HpeError

PATIENCE = HttpPatience(connect_timeout_s=3.0, read_timeout_s=4.0, retries=0)

_NOT_THERE = (404, 410)


def absent_file(url: str, *, allow_private_addresses: bool = False, asked_from_here: bool = True) -> str | None:
    """Why no file can come from an address, in a sentence or two; None where one may.

    A server that is slow or busy, or wants other credentials, may have the file all the same.

    Args:
        url: With http or https.
        allow_private_addresses: Ask servers that not everybody can reach as well; see `addresses.open_session`.
        asked_from_here: This machine would fetch it, so a server that it cannot connect to is a reason.
    """
    file = HttpFile(url, PATIENCE)
    timeout = (PATIENCE.connect_timeout_s, PATIENCE.read_timeout_s)
    private = nobody_there = False
    try:
        with file.errors():
            try:
                with get(url, allow_private_addresses=allow_private_addresses, stream=True, timeout=timeout) as answer:
                    status = answer.status_code
            except PrivateAddressError:
                private = True
                raise
            except exceptions.ConnectionError as error:
                nobody_there = not isinstance(error, exceptions.SSLError | exceptions.ProxyError)
                raise
    except HpeError as error:
        if private:
            return str(error)
        return f"{error.message} Check the address." if nobody_there and asked_from_here else None
    return str(file.denied(status)) if status in _NOT_THERE else None
