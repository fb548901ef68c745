"""Addresses as people may see them: without the secrets that they may hold."""

from __future__ import annotations

from typing import TypeGuard
from urllib.parse import SplitResult, urlsplit, urlunsplit

from hpe_tasks.errors import ConfigError


def split_address(address: str) -> SplitResult:
    """The parts of an address; raises ConfigError when it has none."""
    try:
        return urlsplit(address)
    except ValueError:  # Its text may quote the password.
        scheme = address.partition("://")[0]
        raise ConfigError(
            f"An address that begins with {scheme}:// cannot be understood.",
            hint="Check how its host is written: brackets are for IPv6.",
        ) from None


def is_web_address(value: object) -> TypeGuard[str]:
    """Whether a value is an http(s):// address that can be understood."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def public_address(address: str) -> str:
    """The address without user, password, query and fragment, which may hold secrets."""
    scheme, netloc, path, _, _ = split_address(address)
    return urlunsplit((scheme, netloc.rpartition("@")[2], path, "", ""))


def shown_address(source: str) -> str:
    """A path, or an address without the secrets that it may hold."""
    return public_address(source) if "://" in source else source
