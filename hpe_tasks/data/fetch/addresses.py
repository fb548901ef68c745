"""Which servers an address may lead to: those that everybody can reach, unless the user allows more.

Addresses come from configurations, annotation files and redirects, and whoever wrote them need not be allowed to reach
what this machine reaches: its own services, its network, and the metadata of its cloud. So a host's name is resolved
once, everything that it stands for is checked, and the connection goes to what was checked; a name that means something
else a moment later changes nothing. Each redirect is a request of its own and is checked again.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from typing_extensions import override
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from hpe_tasks.config.web_credentials import WebCredentials, credentials_for

_GLOBAL_UNICAST = ip_network("2000::/3")
"""All of IPv6 that is given to networks of the internet (RFC 4291, section 2.4)."""

_NAT64 = ip_network("64:ff9b::/96")
"""Stands for the IPv4 address in its last 32 bits (RFC 6052)."""

_NOT_PUBLIC = tuple(map(ip_network, ("192.0.0.0/24", "3fff::/20", "168.63.129.16/32")))
"""Special by RFC 6890 and RFC 9637, which `ipaddress` does not say in every version; Azure's services for its own
machines, which have an address that looks public."""


class PrivateAddressError(Exception):
    """A host is one that not everybody can reach. Says nothing of it: neither which one, nor what it answers."""


def is_public(address: str) -> bool:
    """Whether an IP address is one that everybody can reach; IPv4 within IPv6 is judged as what it stands for."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if found not in _GLOBAL_UNICAST:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _NOT_PUBLIC)


def public_addresses(host: str, port: int | None) -> list[str]:
    """The IP addresses of a host, each once, in the order in which they are to be tried.

    Raises:
        PrivateAddressError: Not all of them are public.
        OSError: The name cannot be resolved.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not all(map(is_public, addresses)):
        raise PrivateAddressError
    return addresses


def open_session(*, allow_private_addresses: bool) -> requests.Session:
    """A session for requests; without `allow_private_addresses` it raises PrivateAddressError for other hosts.

    With a proxy of the environment (HTTP_PROXY, HTTPS_PROXY) it is the proxy that resolves names and connects. Hosts
    that this machine knows, and that are not public, are refused all the same; what a name means to the proxy alone is
    left to the proxy's own rules. Hosts of NO_PROXY are asked directly, and checked as all others.

    A server is told the credentials that `config.web_credentials` knows for it, unless the address carries its own; one
    that another redirects to gets its own, and not those of the first.
    """
    session = _Session()
    if not allow_private_addresses:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _PublicOnly())
    return session


def get(url: str, *, allow_private_addresses: bool = False, **options: Any) -> requests.Response:
    """`requests.get` for hosts that may be asked; see open_session."""
    with open_session(allow_private_addresses=allow_private_addresses) as session:
        return session.get(url, **options)


class _Session(requests.Session):
    """Tells each server of a chain of redirects the credentials that are registered for it, and no other's."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, WebCredentials | None] = {}

    @override
    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        found = self._credentials(str(request.url))
        if found is not None and "@" not in urlsplit(str(request.url)).netloc:
            request.headers.update(found.sent)
        return super().send(request, **options)

    @override
    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        before = self._credentials(str(response.request.url))
        for name in before.sent if before is not None else ():
            prepared_request.headers.pop(name, None)
        super().rebuild_auth(prepared_request, response)

    def _credentials(self, url: str) -> WebCredentials | None:
        parts = urlsplit(url)
        server = f"{parts.scheme}://{parts.netloc}"
        if server not in self._known:
            self._known[server] = credentials_for(url)
        return self._known[server]


class _Checked(HTTPConnection):
    """Connects to an address that was checked; name and certificate stay those of the host."""

    @override
    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        try:
            addresses = public_addresses(name, self.port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        failed: Exception = NewConnectionError(self, "The host has no address")
        for address in addresses:
            self._dns_host = address
            try:
                return super()._new_conn()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failed = error
            finally:
                self._dns_host = name
        raise failed


class _CheckedTls(_Checked, HTTPSConnection):
    """The same, with TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Checked


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedTls


class _PublicOnly(HTTPAdapter):
    """Asks public hosts only: by its own connections, or, where a proxy connects, as far as this machine knows."""

    @override
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        self._unknown_here: set[str] = set()

    @override
    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        if select_proxy(str(request.url), proxies):
            self._check_before_proxy(urlsplit(str(request.url)).hostname or "")
        return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)

    def _check_before_proxy(self, host: str) -> None:
        if host in self._unknown_here:
            return
        try:
            public_addresses(host, None)
        except socket.gaierror:
            self._unknown_here.add(host)  # Where only the proxy resolves names, each attempt may take seconds.
