"""Software bills of materials as CycloneDX 1.6 JSON: what a lock installs, with digests and licences.

The bytes follow from the lock, the installed metadata and `licences.yaml` alone: there is no time in them, and the
serial number is made of their content. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Any, Literal

from hpe_tasks.errors import ConfigError
from hpe_tasks.packaging.licences import LicencePolicy, licence_of
from hpe_tasks.packaging.locks import LockedDistribution, normalized

_ROOT = "root"
# `libavcodec` of opencv_python_headless.libs/libavcodec-57aca189.so.62.28.102
_BUNDLED = re.compile(r"[^/]+\.libs/([^/.-]+)[^/]*")
_NAMESPACE = uuid.UUID("9d0f6f0c-0d3f-5d3c-8b55-2f4a3f0f7f11")


@dataclass(frozen=True)
class ShippedDistribution:
    """A distribution that ships.

    Attributes:
        licence: An SPDX expression.
        told: Whether `licences.yaml` says the licence, where the metadata does not.
        libraries: Names of libraries that its wheel brings along, and their licences.
    """

    locked: LockedDistribution
    licence: str
    told: bool
    libraries: tuple[tuple[str, str], ...]


def shipped(
    lock: Iterable[LockedDistribution],
    installed: Iterable[Distribution],
    policy: LicencePolicy,
    *,
    ships: Callable[[str], bool] = lambda _: True,
) -> tuple[ShippedDistribution, ...]:
    """What ships of a lock, with licences.

    Args:
        lock: What was installed.
        installed: Where licences are read.
        policy: What may ship.
        ships: Whether a file, named relative to the installed libraries, does; a distribution without one stays out.

    Raises:
        ConfigError: A distribution is not installed in its version, or one or more have licences that may not ship:
            names all of them.
    """
    there = {normalized(d.metadata["Name"]): d for d in installed}
    found, faults = [], []
    for locked in lock:
        distribution = there.get(locked.name)
        if distribution is None or distribution.version != locked.version:
            has = "is not installed" if distribution is None else f"is installed as {distribution.version}"
            raise ConfigError(
                f"{locked.name} {locked.version} {has}: its licence cannot be read.", hint="Run `make setup`."
            )
        files = [str(file) for file in distribution.files or () if ships(str(file))]
        if not files and distribution.files:
            continue
        licence = licence_of(distribution, policy)
        names = sorted({match[1] for match in map(_BUNDLED.fullmatch, files) if match})
        libraries = [(name, policy.libraries.get(name)) for name in names]
        faults += [fault for name, says in ((locked.name, licence), *libraries) if (fault := policy.fault(name, says))]
        found.append(
            ShippedDistribution(
                locked, licence or "", locked.name in policy.told, tuple((n, says) for n, says in libraries if says)
            )
        )
    if faults:
        raise ConfigError(
            f"{len(faults)} of what ships may not: {'; '.join(sorted(faults))}.",
            hint="Read the licence, and name it in hpe_tasks/packaging/licences.yaml with the reason, or leave it out.",
        )
    return tuple(found)


def bill_of_materials(
    name: str, kind: Literal["application", "container"], parts: Sequence[ShippedDistribution], description: str
) -> bytes:
    """The bill of what ships under a name.

    Args:
        name: Of the image or package.
        kind: What that is, in CycloneDX's words.
        parts: What is in it; one that comes twice in the same version counts once.
        description: What else is in it, and not in the bill.
    """
    once = {_reference(part): part for part in sorted(parts, key=lambda p: (p.locked.name, p.locked.version))}
    asks: dict[str, set[str]] = {_ROOT: set(), **{reference: set() for reference in once}}
    versions: dict[str, list[str]] = {}
    for reference, part in once.items():
        versions.setdefault(part.locked.name, []).append(reference)
    for reference, part in once.items():
        if part.locked.asked_for:
            asks[_ROOT].add(reference)
        for by in part.locked.required_by:
            for parent in versions.get(by, ()):
                asks[parent].add(reference)
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": kind,
                "bom-ref": _ROOT,
                "name": name,
                "description": description,
                "licenses": _licences("Apache-2.0", told=False),
            }
        },
        "components": [_component(reference, part) for reference, part in once.items()],
        "dependencies": [{"ref": reference, "dependsOn": sorted(on)} for reference, on in asks.items()],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(content, sort_keys=True))
    return json.dumps({"serialNumber": f"urn:uuid:{serial}", **content}, indent=1, sort_keys=True).encode() + b"\n"


def _component(reference: str, part: ShippedDistribution) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": reference,
        "name": part.locked.name,
        "version": part.locked.version,
        "purl": reference,
        "licenses": _licences(part.licence, told=part.told),
        "externalReferences": [
            {
                "type": "distribution",
                "url": reference,
                "comment": "Digests of the files that the lock allows; one of them was installed.",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(part.locked.sha256)],
            }
        ],
    }
    if part.libraries:
        component["components"] = [
            {
                "type": "library",
                "bom-ref": f"{reference}#{name}",
                "name": name,
                "licenses": _licences(licence, told=True),
            }
            for name, licence in part.libraries
        ]
    return component


def _reference(part: ShippedDistribution) -> str:
    return f"pkg:pypi/{part.locked.name}@{part.locked.version}"


def _licences(licence: str, *, told: bool) -> list[dict[str, Any]]:
    acknowledgement = "concluded" if told else "declared"
    if " " in licence:
        return [{"expression": licence, "acknowledgement": acknowledgement}]
    named = "name" if licence.startswith("LicenseRef-") else "id"
    return [{"license": {named: licence, "acknowledgement": acknowledgement}}]
