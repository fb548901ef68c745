"""Credentials of web servers, from where the process that fetches has them.

`requests` itself looks into ~/.netrc, or the file that NETRC names. Airflow's tasks have connections as well: who knows
them registers a source here, once for the process, as those files are the process's too.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class WebCredentials:
    """What a web server wants to be told, and which server that is.

    Attributes:
        scheme: `http` or `https`: nothing is told over the other one.
        host: Its name, in lower case.
        port: None for the scheme's own.
        login: With `password` for HTTP's basic authentication; empty for none.
        headers: Sent with each request, such as `Authorization: Bearer …`.
    """

    host: str
    scheme: str = "https"
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def sent(self) -> dict[str, str]:
        """All headers that tell the server: for basic authentication in UTF-8 (RFC 7617), and those given."""
        told = dict(self.headers)
        if self.login:
            told["Authorization"] = f"Basic {b64encode(f'{self.login}:{self.password}'.encode()).decode()}"
        return told

    def are_for(self, url: str) -> bool:
        """Whether an address leads to this server, and does so in the agreed way."""
        parts = urlsplit(url)
        usual = _PORTS.get(self.scheme)
        return (parts.scheme, parts.hostname, parts.port or usual) == (self.scheme, self.host, self.port or usual)


Source = Callable[[str], WebCredentials | None]
"""Given a server's name, in lower case: what it wants to be told; None where nothing is known of it."""

_sources: list[Source] = []


def register(source: Source) -> None:
    """Ask this source, too, from now on in this process."""
    if source not in _sources:
        _sources.append(source)


def forget_sources() -> None:
    """Ask none of the registered sources any more."""
    _sources.clear()


def credentials_for(url: str) -> WebCredentials | None:
    """What the server of an address is told by the first source that knows it."""
    host = urlsplit(url).hostname or ""
    known = (source(host) for source in _sources)
    return next((found for found in known if found is not None and found.are_for(url)), None)
