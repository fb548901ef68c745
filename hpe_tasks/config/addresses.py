"""Addresses as people may see them: without the credentials that some carry.

A user and password before the host, a signature or a token among the parameters: whoever reads such an address can use
it. So it is used as it was given, and shown and stored without them: in logs and errors, in records and reports, and in
what a run was asked. The name of a run's folder and the keys of its results do not come from them either: an address
that was signed anew is the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard, TypeVar
from urllib.parse import SplitResult, unquote, unquote_plus, urlsplit, urlunsplit

from hpe_tasks.config.base import Frozen
from hpe_tasks.errors import ConfigError

C = TypeVar("C", bound=Frozen)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_ADDRESS = re.compile(_SCHEME.pattern + r"[^\s'\"<>]+")

_CREDENTIAL = re.compile(
    r"""x-(amz|goog|oss|cos|ms)-.*
    |.*(signature|secret|password|passwd|passphrase|token|credentials?|sessionid)
    |(.*[-_.])?(sig|sign|hmac|auth|authorization|bearer|jwt|pass|pwd|session|code|policy)
    |(.*[-_.])?(api|access|account|auth|function|private|shared|subscription)?[-_.]?key([-_.]?pair)?([-_.]?id)?
    |awsaccesskeyid|googleaccessid
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Names of parameters that hold a credential, or a part of one."""

_PUBLIC_PART = re.compile(r"x-\w+-(algorithm|date|expires|signedheaders)", re.IGNORECASE)
"""Parameters that belong to a signature and are no secret."""

_OF_A_SIGNATURE = {
    *("expires", "sv", "st", "se", "sr", "sp", "sip", "spr", "srt", "ss", "si"),
    *("skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "sdd", "ses"),
}
"""Parameters that say what a signature beside them is for: those of S3, Google, CloudFront and Azure."""


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
    """The address without user, password, query and fragment, which may hold secrets; raises as split_address."""
    parts = split_address(address)
    host = parts.netloc.rpartition("@")[2]
    if "@" not in parts.netloc and not _is_host(parts):
        host = "…"  # A part of a password: one with a slash or a hash in it ends the host too early.
    return urlunsplit((parts.scheme, host, "" if host == "…" else parts.path, "", ""))


def _is_host(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port >= 0
    except ValueError:
        return parts.netloc.startswith("arn:")  # An S3 access point.


def shown_address(source: str) -> str:
    """A path, or an address without the secrets that it may hold."""
    return public_address(source) if "://" in source else source


def carries_credential(source: str) -> bool:
    """Whether an address has a user or a password before its host, or a parameter that is a credential."""
    if "://" not in source:
        return False
    try:
        parts = urlsplit(source)
    except ValueError:
        return "@" in source
    return "@" in parts.netloc or not _is_host(parts) or _is_signed(parts.query)


def address_identity(source: str) -> str:
    """A path as it is, or an address without credentials: for what must be the same whoever asks.

    Other parameters stay, and an address without credentials is left as it is, character by character.
    """
    if not carries_credential(source):
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        return _redacted_address(source)
    signed = _is_signed(parts.query)
    kept = [
        text
        for text, name in _parameters(parts.query)
        if not (_is_credential(name) or (signed and name.lower() in _OF_A_SIGNATURE))
    ]
    return urlunsplit((*split_address(public_address(source))[:3], "&".join(kept), ""))


def _parameters(query: str) -> list[tuple[str, str]]:
    """Each parameter as it is written, and its name."""
    return [(text, unquote_plus(text.partition("=")[0])) for text in re.split("[&;]", query)]


def _is_signed(query: str) -> bool:
    return any(_is_credential(name) for _, name in _parameters(query))


def _is_credential(name: str) -> bool:
    return _CREDENTIAL.fullmatch(name) is not None


def redacted(value: Any) -> Any:
    """A setting's value, with each address in it without the secrets that it may hold."""
    if isinstance(value, str):
        # What is an address as a whole may hold spaces.
        return _redacted_address(value) if _SCHEME.match(value) else redacted_text(value)
    if isinstance(value, Mapping):
        return {redacted(key): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redacted, value))
    return value


def redacted_text(text: str) -> str:
    """A text, such as another library's error, with each address in it without the secrets that it may hold."""
    return _ADDRESS.sub(lambda found: _redacted_address(found[0]), text) if "://" in text else text


def _redacted_address(address: str) -> str:
    try:
        return public_address(address)
    except ConfigError:
        return f"{address.partition('://')[0]}://…"


def without_credentials(config: C) -> C:
    """A configuration as it is shown and stored: its addresses are without the secrets that they may hold."""
    changed: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        shown = without_credentials(value) if isinstance(value, Frozen) else redacted(value)
        if shown != value:
            changed[name] = shown
    return config.model_copy(update=changed) if changed else config


def settings_with_credentials(config: Frozen) -> tuple[str, ...]:
    """The dotted keys of settings that hold an address with a credential."""
    return tuple(dict.fromkeys(key for key, text in _texts(config) if carries_credential(text)))


def credentials_in(config: Frozen) -> Iterator[str]:
    """The credentials themselves that addresses of a configuration carry, as they are written and as they are meant."""
    for _, address in _texts(config):
        if not carries_credential(address):
            continue
        try:
            parts = urlsplit(address)
        except ValueError:
            continue
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        given = [password or user]
        for text, name in _parameters(parts.query):
            if _is_credential(name) and not _PUBLIC_PART.fullmatch(name):
                given.append(text.partition("=")[2])
        yield from dict.fromkeys(form for one in given if one for form in (one, unquote(one), unquote_plus(one)))


def _texts(config: Frozen, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each text among the settings, with its dotted key."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Frozen):
            yield from _texts(value, f"{prefix}{name}.")
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str):
                yield f"{prefix}{name}", one


CREDENTIALS_ADVICE = (
    "The run uses it and stores the address without it: to continue the run, give the address again as it was. Where "
    "it was typed it stays readable, as in a shell's history or in Airflow's list of runs: better keep it in ~/.netrc "
    "or the file that NETRC names, or in Airflow in a connection for that server (hpe_web_…), or use an s3:// address "
    "with the AWS variables or a connection."
)
"""What to do about an address with a credential."""


def credentials_text(settings: Iterable[str]) -> str:
    """That these settings hold addresses with credentials, in a sentence."""
    return f"An address with a credential (a user, a password, a token or a signature): {', '.join(settings)}."
