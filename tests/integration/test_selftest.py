"""The self-test, with its guards and without one of them: each fault gets past its guard where that is taken away."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hpe_tasks
from hpe_tasks.cli.app import app
from hpe_tasks.diagnosis.hypotheses import input_mistakes
from hpe_tasks.errors import ConfigError
from hpe_tasks.gate.checks import CHECKS
from hpe_tasks.gate.checks.arithmetic import Int8Share, UnclippedSums
from hpe_tasks.gate.checks.parts import JointDrop
from hpe_tasks.gate.floor import check_floor
from hpe_tasks.records.diagnosis import Fp32Check
from hpe_tasks.records.selftest import SelfTest
from hpe_tasks.registry.stored_versions import StoredVersions
from hpe_tasks.selftest.bench import DATA, Bench
from hpe_tasks.selftest.fault import Fault, Ruling
from hpe_tasks.selftest.faults import FAULTS
from hpe_tasks.selftest.running import run_selftest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]

Patch = pytest.MonkeyPatch
Remove = Callable[[Patch], None]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the healthy run, which was made with all guards in their places."""
    folder = tmp_path_factory.mktemp("selftest")
    run_selftest(folder, only=["unsigned_publication"])
    return folder


def instead(name: str, value: object) -> Remove:
    """Put something that stops nothing in the place of a guard, or of what it stands on."""

    def remove(patch: Patch) -> None:
        patch.setattr(name, value)

    return remove


def without_check(kind: type) -> Remove:
    """Take a check out of the gate."""
    return instead("hpe_tasks.gate.decision.CHECKS", tuple(check for check in CHECKS if not isinstance(check, kind)))


def without_whole_blobs(patch: Patch) -> None:
    def require(self: StoredVersions, name: str, version: str, *, sha256: str | None) -> Any:
        return self.require(name, version, sha256=sha256)

    patch.setattr(StoredVersions, "require_whole", require)


def any_floor(*arguments: Any) -> Fp32Check:
    return check_floor(*arguments).model_copy(update={"passed": True})


class AnyDigest:
    """Says of every file what is expected of it."""

    def __init__(self, file: Path) -> None:
        pass

    def result(self) -> Any:
        class Equal:
            def __ne__(self, other: object) -> bool:
                return False

        return Equal()


def first_only(items: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
    """What a diagnosis tries, without anything but what is configured."""
    return lambda *arguments: list(items(*arguments))[:1]


def without_mistakes(patch: Patch) -> None:
    patch.setattr("hpe_tasks.diagnosis.input_mistakes", first_only(input_mistakes))


def without_joint_orders(patch: Patch) -> None:
    from hpe_tasks.diagnosis import top_down

    patch.setattr(top_down, "_readings", first_only(top_down._readings))


VALIDATION = "hpe_tasks.data.validation.coco"
NO_FLOOR = instead("hpe_tasks.pipeline.steps.measuring.check_floor", any_floor)
ANY_OKS = instead("hpe_tasks.release.smoke_test.MIN_OKS", -1.0)

REMOVED: list[tuple[str, str, Remove]] = [
    ("calibration_leak", "disjoint splits", instead(f"{VALIDATION}.disjoint_rules", lambda columns: [])),
    ("copied_leak", "comparison of files", instead("hpe_tasks.data.calibration._twin", lambda *_: None)),
    (
        "near_duplicate_leak",
        "perceptual hashes",
        instead("hpe_tasks.data.validation.inspection.find_alike", lambda hashes, _: [None] * len(hashes)),
    ),
    ("truncated_data", "rules of image files", instead(f"{VALIDATION}.image_file_rules", lambda share: [])),
    ("too_few_persons", "count of persons", instead(f"{VALIDATION}.person_count_rules", lambda least: [])),
    ("swapped_sides", "floor", NO_FLOOR),
    ("swapped_sides", "joint orders of the diagnosis", without_joint_orders),
    ("bgr", "floor", NO_FLOOR),
    ("bgr", "input mistakes of the diagnosis", without_mistakes),
    ("wrong_normalization", "floor", NO_FLOOR),
    ("wrong_normalization", "input mistakes of the diagnosis", without_mistakes),
    ("float_activation", "check of the int8 share", without_check(Int8Share)),
    ("saturated_kernels", "check of the proof", without_check(UnclippedSums)),
    ("dead_joint", "check of groups of joints", without_check(JointDrop)),
    ("worse_wrists", "check of groups of joints", without_check(JointDrop)),
    (
        "lucky_sample",
        "judgement by the interval",
        instead("hpe_tasks.gate.checks.accuracy.outcome_of", lambda part: "kept"),
    ),
    (
        "other_protocol",
        "comparison of fingerprints",
        instead("hpe_tasks.gate.checks.accuracy._incomparable", lambda *_: ""),
    ),
    (
        "unmeasured_file",
        "digest of the measured file",
        instead("hpe_tasks.pipeline.steps.publishing._refuse_unmeasured", lambda *_: None),
    ),
    (
        "unsigned_publication",
        "requirement of a signature",
        instead("hpe_tasks.pipeline.steps.publishing.signature_required_by", lambda _: None),
    ),
    ("corrupted_blob", "verification of blobs", without_whole_blobs),
    (
        "unsigned_manifest",
        "check of the signature",
        instead("hpe_tasks.serving.verified_model.check_signature", lambda *_: None),
    ),
    ("other_model_in_package", "digest of the model", instead("hpe_tasks.serving.sources.FileDigest", AnyDigest)),
    ("function_feeds_bgr", "least similarity", ANY_OKS),
    ("function_normalizes_wrongly", "least similarity", ANY_OKS),
]


def outcomes(record: SelfTest) -> dict[str, str]:
    return {trial.name: trial.outcome for trial in record.trials}


def test_every_fault_is_refused_by_its_guard(cache: Path) -> None:
    record = run_selftest(cache)
    wanted = {"healthy": "passed"} | {fault.name: "refused" for fault in FAULTS}
    assert outcomes(record) == wanted, [f"{one.name}: {one.message}" for one in record.failed]
    assert record.passed
    said = {trial.name: trial.message for trial in record.trials}
    assert re.search(r"on 8 images \(95 % interval .*\): about [\d,]+ images would tell", said["lucky_sample"])
    assert said["worse_wrists"].startswith("AP drop of wrists from FP32 to ONNX")
    assert not list(cache.glob("selftest/planted-*"))


def test_every_guard_is_taken_away_once() -> None:
    assert {name for name, _, _ in REMOVED} == {fault.name for fault in FAULTS}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "remove"), [pytest.param(name, remove, id=f"{name} without {what}") for name, what, remove in REMOVED]
)
def test_without_its_guard_a_fault_is_let_through(
    cache: Path, name: str, remove: Remove, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(monkeypatch)
    record = run_selftest(cache, only=[name])
    assert outcomes(record) == {"healthy": "passed", name: "let_through"}, record.trials[-1].message
    assert not record.passed


def test_a_guard_that_stops_the_healthy_run_fails_and_nothing_is_planted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpe_tasks.release.smoke_test.MIN_OKS", 1.1)
    record = run_selftest(cache, only=["unsigned_publication"])
    assert outcomes(record) == {"healthy": "refused"}
    assert "does not serve version" in record.trials[0].message
    assert not record.passed


def test_a_trial_that_breaks_off_is_told_and_fails(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Bench) -> Ruling:
        raise RuntimeError("no pictures")

    monkeypatch.setattr("hpe_tasks.selftest.running.FAULTS", (Fault("broken", "Nothing", "none", broken),))
    record = run_selftest(cache)
    assert outcomes(record) == {"healthy": "passed", "broken": "broke"}
    assert record.trials[1].message == "RuntimeError: no pictures"
    assert not record.passed


@pytest.fixture
def hpe(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The command: its exit status and what it prints."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("HPE_CACHE", str(cache))
    monkeypatch.setenv("HPE_WORKSPACE", str(tmp_path / "workspace"))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["selftest", *arguments])
        return result.exit_code, result.stdout

    return run


def test_the_command_tells_keeps_and_fails(
    hpe: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, told = hpe("--json", "--only", "unsigned_publication")
    record = SelfTest.model_validate_json(told)
    assert (status, record.passed) == (0, True)
    [folder] = (tmp_path / "workspace" / "selftest").iterdir()
    assert SelfTest.model_validate_json((folder / "result.json").read_bytes()) == record
    assert "All 1 faults were refused" in (folder / "report.html").read_text()

    monkeypatch.setattr("hpe_tasks.pipeline.steps.publishing.signature_required_by", lambda _: None)
    status, told = hpe("--only", "unsigned_publication")
    assert status == 1
    assert "1 of 1 faults got past their guards" in told
    assert "Nothing stopped it." in told


def test_the_command_lists_the_faults(hpe: Callable[..., tuple[int, str]]) -> None:
    status, told = hpe("--list")
    assert status == 0
    assert all(fault.name[:12] in told for fault in FAULTS)


def test_from_python(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    places = {"cache": cache, "workspace": tmp_path / "workspace"}
    record = hpe_tasks.run_selftest(only=["unsigned_publication"], on_progress=said.append, **places)
    assert record.passed
    assert said[:2] == ["healthy: passed", "unsigned_publication: refused"]
    assert Path(said[2].removeprefix("file://")).is_file()


def test_an_unknown_fault_is_refused(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no fault 'gremlins'") as caught:
        run_selftest(cache, only=["gremlins"])
    assert "near_duplicate_leak" in caught.value.hint


def test_the_healthy_run_is_reused_and_what_killed_self_tests_left_is_removed(cache: Path) -> None:
    old, young = (cache / "selftest" / f"planted-{age}" for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (1, 1))

    def stored() -> dict[Path, int]:
        store = cache / "selftest" / "workspace" / "store"
        return {path: path.stat().st_mtime_ns for path in store.rglob("result.json")}

    [root] = cache.glob("selftest/data-*")
    content = json.loads((root / "annotations" / "person_keypoints_val.json").read_bytes())
    before = stored()
    run_selftest(cache, only=["unsigned_publication"])
    assert len(before) > 5
    assert before == stored()
    assert (old.exists(), young.exists()) == (False, True)
    young.rmdir()
    assert len(content["images"]) == DATA.val
