"""Licences of distributions as SPDX expressions, and which of them may ship: `licences.yaml` beside this file."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Any

import yaml

from hpe_tasks.errors import ConfigError
from hpe_tasks.packaging.locks import normalized

_SOME_BSD = "LicenseRef-BSD"
"""A BSD licence, where nothing says of how many clauses."""

# What authors write, lower case and without "license", "version" and signs, for what SPDX calls otherwise.
_SPOKEN = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2 0": "Apache-2.0",
    "apache software": "Apache-2.0",
    "mit": "MIT",
    "bsd": _SOME_BSD,
    "new bsd": "BSD-3-Clause",
    "3 clause bsd": "BSD-3-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 2 clause": "BSD-2-Clause",
    "freebsd": "BSD-2-Clause",
    "isc": "ISC",
    "mpl 2 0": "MPL-2.0",
    "psf 2 0": "PSF-2.0",
    "unlicense": "Unlicense",
    "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
}

# https://pypi.org/classifiers; what is missing here ("Other/Proprietary License") says too little.
_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": _SOME_BSD,
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}

_SPDX_ID = re.compile(r"(LicenseRef-)?[A-Za-z0-9][A-Za-z0-9.+-]*")
_THIRD_CLAUSE = re.compile(r"neither the names?\b|names? of .{0,200}may not be used to endorse", re.I | re.S)
_BSD_TEXT = re.compile(r"redistributions\s+of\s+source\s+code", re.I)
_LICENCE_FILE = re.compile(r"\.dist-info/(licenses/)?LICEN[CS]E[^/]*$", re.I)


@dataclass(frozen=True)
class LicencePolicy:
    """What may ship.

    Attributes:
        allowed: SPDX identifiers, with their exceptions, that any distribution may have.
        named: By the names of distributions that may ship with one of another licence: (that licence, why).
        told: By the names of distributions whose metadata does not say it well: their licence, as read elsewhere.
        libraries: Licences of the libraries that wheels bring along, by their names.
    """

    allowed: frozenset[str]
    named: Mapping[str, tuple[str, str]]
    told: Mapping[str, str]
    libraries: Mapping[str, str]

    @classmethod
    def of_the_project(cls) -> LicencePolicy:
        """As `licences.yaml` has it; raises ConfigError where an entry lacks its reason."""
        content: dict[str, Any] = yaml.safe_load(
            importlib.resources.files("hpe_tasks.packaging").joinpath("licences.yaml").read_text(encoding="utf-8")
        )
        for part, name, entry in [(p, n, e) for p in ("named", "told") for n, e in content[p].items()]:
            if not entry.get("why") or not entry.get("licence"):
                raise ConfigError(f"licences.yaml: {part}.{name} lacks `licence` or `why`.", hint="Say both.")
        return cls(
            allowed=frozenset(content["allowed"]),
            named={name: (entry["licence"], entry["why"]) for name, entry in content["named"].items()},
            told={name: entry["licence"] for name, entry in content["told"].items()},
            libraries=content["libraries"],
        )

    def fault(self, name: str, licence: str | None) -> str:
        """Why a distribution may not ship; empty when it may.

        Of an expression with OR one side is enough, of one with AND both are needed.
        """
        if licence is None:
            return f"{name} does not say its licence"
        allowed = self.allowed | ({self.named[name][0]} if name in self.named else set[str]())
        if licence in allowed or _permits(_Tokens(licence), allowed):
            return ""
        return f"{name} has the licence {licence}, which is not on the list"


def licence_of(distribution: Distribution, policy: LicencePolicy) -> str | None:
    """The licence of an installed distribution as an SPDX expression; None where it cannot be told.

    What the list tells comes first, then the expression of newer metadata, the field of older metadata and the
    classifiers. Where these say "BSD" only, the text of the licence says whether it has the third clause.
    """
    metadata = distribution.metadata
    name = normalized(metadata["Name"])
    if name in policy.told:
        return policy.told[name]
    if "License-Expression" in metadata:
        return str(metadata["License-Expression"])
    found = _spoken("".join(metadata.get_all("License") or [])) or _classified(metadata.get_all("Classifier") or [])
    return _which_bsd(distribution) if found == _SOME_BSD else found


def _spoken(text: str) -> str | None:
    """What a field of free text says; None for the text of a licence, and for what nobody has translated yet."""
    text = text.strip()
    words = re.sub(r"\b(the|licen[cs]e|version)\b|[^a-z0-9]+", " ", text.lower())
    if (known := _SPOKEN.get(" ".join(words.split()))) is not None:
        return known
    parts = re.split(r" (?:AND|OR|WITH) ", text)
    # An expression has hyphens, digits or operators; a lone word may be anything.
    if all(_SPDX_ID.fullmatch(part) for part in parts) and (len(parts) > 1 or re.search(r"\d|LicenseRef-", text)):
        return text
    return None


def _classified(classifiers: list[str]) -> str | None:
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ") and c.count("::") > 1]
    named += [c.rpartition(" :: ")[2] for c in classifiers if c == "License :: Other/Proprietary License"]
    found = [_CLASSIFIED.get(name) for name in named]
    return found[0] if len(found) == 1 else None


def _which_bsd(distribution: Distribution) -> str:
    for file in distribution.files or ():
        if _LICENCE_FILE.search(str(file)):
            text = str(file.read_text(encoding="utf-8"))
            if _BSD_TEXT.search(text):
                return "BSD-3-Clause" if _THIRD_CLAUSE.search(text) else "BSD-2-Clause"
    return _SOME_BSD


class _Tokens:
    """The words and brackets of an expression, from left to right."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._left: list[str] = re.findall(r"[()]|[^\s()]+", expression)

    def next_is(self, word: str) -> bool:
        """Take the next word if it is this one."""
        if self._left and self._left[0].upper() == word:
            del self._left[0]
            return True
        return False

    def take(self) -> str:
        if not self._left:
            raise ConfigError(f"{self._expression!r} is no SPDX expression.", hint="Name it in licences.yaml.")
        return self._left.pop(0)

    @property
    def are_left(self) -> bool:
        return bool(self._left)


def _permits(tokens: _Tokens, allowed: frozenset[str], *, inner: bool = False) -> bool:
    """Whether an expression can be kept with allowed licences; AND binds closer than OR."""
    permitted = _permits_all(tokens, allowed)
    while tokens.next_is("OR"):
        permitted = _permits_all(tokens, allowed) or permitted
    if not inner and tokens.are_left:
        return False
    return permitted


def _permits_all(tokens: _Tokens, allowed: frozenset[str]) -> bool:
    permitted = _permits_one(tokens, allowed)
    while tokens.next_is("AND"):
        permitted = _permits_one(tokens, allowed) and permitted
    return permitted


def _permits_one(tokens: _Tokens, allowed: frozenset[str]) -> bool:
    if tokens.next_is("("):
        permitted = _permits(tokens, allowed, inner=True)
        return tokens.next_is(")") and permitted
    name = tokens.take()
    if tokens.next_is("WITH"):
        name = f"{name} WITH {tokens.take()}"
    return name in allowed
