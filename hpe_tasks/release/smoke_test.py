"""The smoke test: the built Lambda package in the emulator, with a published version's golden images.

Each image goes in as a function URL would send it. The answer must show the people who were found when the version was
measured, by their object keypoint similarity (OKS) with them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.errors import ConfigError, HpeError
from hpe_tasks.local.emulator import FunctionError, LambdaEmulator
from hpe_tasks.local.environment import PYTHON_VERSION
from hpe_tasks.packaging import Architecture, PackagedModel, build_package
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.records.release import SmokedImage, SmokeTest
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.release.golden import is_clear, similarity

MIN_OKS = 0.9
"""Lowest similarity of a person.

The function shows the network the bytes that the evaluation showed it. Its joints lie where the evaluation's do, but
for one in a thousand, which lies in the next cell of its map where two are equal: measured by
tests/unit/serving/test_parity.py. Such a joint costs a person in a box at most 0.04, and that only where five joints of
the face are all that is known of him (tests/unit/release/test_smoke_test.py).
"""

Invoke = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Gives a function an event, and gives back what it answers."""

_ARCHITECTURES: dict[str, Architecture] = {"x86_64": "x86_64", "aarch64": "arm64"}


class SmokeTestError(HpeError):
    """The function does not serve a version as it was measured."""


def local_architecture() -> Architecture:
    """The architecture of packages that run here; raises ConfigError where there is none."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise ConfigError(
            f"Lambda has no processor like this machine's ({platform.machine()}).",
            hint="Run the smoke test on x86-64 or arm64, or set destination.smoke_test=false.",
        )
    return architecture


def smoke_test(
    manifest: ModelManifest, model: PackagedModel, images: Mapping[str, Path], *, public_key: bytes | None
) -> SmokeTest:
    """Build the package with this version, run it, and compare what it finds in the golden images.

    Args:
        manifest: Of the version.
        model: Its files for the package.
        images: Files of the golden images, by role.
        public_key: Ed25519 public key, 32 bytes, that the function must demand a signature of; None for none.

    Raises:
        SmokeTestError: No golden image shows a person clearly enough to compare, or the function does not start with
            this version, or finds something else in an image.
        ConfigError: The emulator is not installed here, or this machine's processor is not one of Lambda's.
        HpeError: The package cannot be built, as `build_package` says.
    """
    _require_clear_people(manifest)
    architecture = local_architecture()
    environment = {} if public_key is None else {"HPE_PUBLIC_KEY": base64.b64encode(public_key).decode()}
    with tempfile.TemporaryDirectory(prefix="hpe-smoke-test-") as temporary:
        package = build_package(Path(temporary, "package.zip"), architecture=architecture, model=model)
        folder = Path(temporary, "package")
        with zipfile.ZipFile(package.path) as archive:
            archive.extractall(folder)
        with LambdaEmulator(folder, environment=environment) as function:
            smoked = ask_for_golden(function.invoke, manifest, images)
            cold_start_ms = function.cold_start_ms
    return SmokeTest(
        version=manifest.version,
        manifest_sha256=hashlib.sha256(model.manifest).hexdigest(),
        package_sha256=package.sha256,
        zipped_bytes=package.zipped_bytes,
        unzipped_bytes=package.unzipped_bytes,
        cold_start_ms=cold_start_ms,
        python=PYTHON_VERSION,
        cpu_features=cpu_features(),
        images=smoked,
    )


def ask_for_golden(invoke: Invoke, manifest: ModelManifest, images: Mapping[str, Path]) -> tuple[SmokedImage, ...]:
    """Show a function the golden images of the version that it serves, and compare what it finds.

    Args:
        invoke: The function, wherever it runs.
        manifest: Of the version.
        images: Files of the golden images, by role.

    Raises:
        SmokeTestError: No golden image shows a person clearly enough to compare, or the function finds something else.
    """
    _require_clear_people(manifest)
    answers = ((golden, _ask(invoke, manifest, golden, images[golden.file].read_bytes())) for golden in manifest.golden)
    return tuple(check_answer(golden, answer, manifest) for golden, answer in answers)


def _require_clear_people(manifest: ModelManifest) -> None:
    """Refuse golden images that any function would pass with."""
    if any(is_clear(person) for golden in manifest.golden for person in golden.people):
        return
    subject = f"Version {manifest.version} of {manifest.name!r} cannot be smoke-tested"
    if not manifest.golden:
        raise SmokeTestError(
            f"{subject}: it has no golden image.",
            hint="Its evaluation split holds no image that fits a request: JPEG, PNG, WebP or GIF, upright as it is "
            "stored, 8-bit RGB or grey, up to 4 MB. Add one, or set destination.smoke_test=false.",
        )
    raise SmokeTestError(
        f"{subject}: in none of its {len(manifest.golden)} golden images has a person five confident joints to compare "
        "with.",
        hint="Another `seed` looks at other images; or set destination.smoke_test=false.",
    )


def function_url_event(image: bytes, boxes: Sequence[Sequence[float]] = ()) -> dict[str, Any]:
    """A POST of an image to a function URL, as Lambda hands it on."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "headers": {"content-type": "application/octet-stream", "accept": "application/json"},
        **({"queryStringParameters": {"boxes": json.dumps(boxes)}} if boxes else {}),
        "requestContext": {"http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1"}, "stage": "$default"},
        "body": base64.b64encode(image).decode(),
        "isBase64Encoded": True,
    }


def _ask(invoke: Invoke, manifest: ModelManifest, golden: GoldenImage, image: bytes) -> dict[str, Any]:
    boxes = [person.box for person in golden.people if person.box is not None]
    try:
        answer = invoke(function_url_event(image, boxes))
    except FunctionError as error:
        raise _failure(manifest, golden, error.message) from error
    body = json.loads(answer["body"])
    if answer["statusCode"] != 200:
        raise _failure(manifest, golden, f"it answers {answer['statusCode']}: {body['error']['message']}")
    served = body["model"]["version"]
    if served != manifest.version:
        raise _failure(manifest, golden, f"it answers with version {served}")
    if not base64.b64decode(body.get("hpe", "")).startswith(b"\xff\xd8"):
        raise _failure(manifest, golden, "its answer holds no picture")
    return dict(body)


def check_answer(golden: GoldenImage, answer: Mapping[str, Any], manifest: ModelManifest) -> SmokedImage:
    """Compare the people of an answer (HTTP status 200) with the expected ones; raises SmokeTestError."""
    joints = manifest.serving.joints
    found = [_person(person, joints) for person in answer["people"]]
    expected = golden.people
    if not CODECS[manifest.serving.codec].whole_images:
        if len(found) != len(expected):
            raise _failure(manifest, golden, f"it finds {len(found)} people in {len(expected)} boxes")
        pairs = [(one, other) for one, other in zip(expected, found, strict=True) if is_clear(one)]
        similar = [similarity(one, other, joints) for one, other in pairs]
    else:
        similar = _similarities(expected, found, manifest, golden)
    if similar and min(similar) < MIN_OKS:
        raise _failure(
            manifest, golden, f"a person is found with an OKS of {min(similar):.3f} to where it was, at least {MIN_OKS}"
        )
    return SmokedImage(
        image=golden.file,
        people=len(found),
        expected=len(expected),
        min_oks=min(similar, default=None),
        duration_ms=float(answer["timings_ms"]["total"]),
    )


def _similarities(
    expected: Sequence[GoldenPerson], found: Sequence[GoldenPerson], manifest: ModelManifest, golden: GoldenImage
) -> list[float]:
    """Similarity of each clear person with the most similar one that no other person has taken.

    People of fewer joints may come and go: what assembles them is at the limits of a decision.
    """
    joints, free, similar = manifest.serving.joints, list(found), []
    for one in filter(is_clear, expected):
        if not free:
            raise _failure(manifest, golden, f"it finds {len(found)} people, where {len(expected)} were found")
        best = max(free, key=lambda other: similarity(one, other, joints))
        free.remove(best)
        similar.append(similarity(one, best, joints))
    if sum(map(is_clear, free)) > sum(not is_clear(one) for one in expected):
        raise _failure(manifest, golden, f"it finds {len(found)} people, where {len(expected)} were found")
    return similar


def _person(person: Mapping[str, Any], names: Sequence[str]) -> GoldenPerson:
    """A person of an answer, which leaves out joints that were not found."""
    found = {joint["name"]: (joint["x"], joint["y"], joint["score"]) for joint in person["joints"]}
    return GoldenPerson(box=None, joints=tuple(found.get(name) for name in names))


def _failure(manifest: ModelManifest, golden: GoldenImage, problem: str) -> SmokeTestError:
    return SmokeTestError(
        f"The Lambda function does not serve version {manifest.version} of {manifest.name!r} as it was measured. "
        f"Of the image {golden.file}: {problem.rstrip('.')}.",
        hint="The channel was not moved. Mend what the function lacks and run the step again.",
    )
