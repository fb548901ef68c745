"""Runs that are killed at a point, and a second attempt: what that leaves is what an undisturbed run leaves.

The exhaustive tests print how many points there are and how many kills were recovered from, and keep it in a page:
`pytest tests/integration/test_fault_points.py -m long -s --kills docs/benchmarks.md`.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpe_tasks.data.annotation_files import annotation_path
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.retrain import RETRAIN
from support.fault_runs import Point, Scene, Zygote, kill_everywhere
from support.fault_trees import differences, litter
from support.faulty_server import Site, serve
from support.kill_tables import SceneKills, StepKills, TellKills
from support.retrained import retraining_settings
from support.signing_keys import key_pem
from support.tiny_inputs import tiny_settings

if TYPE_CHECKING:
    from .conftest import S3Bucket

pytestmark = pytest.mark.integration

STEPS = [step.name for step in REQUANTIZE.steps]

_COMPUTING, _RELEASE = STEPS.index("evaluate_fp32"), STEPS.index("publish")
GROUPS = {"inputs": STEPS[:_COMPUTING], "computing": STEPS[_COMPUTING:_RELEASE], "release": STEPS[_RELEASE:]}
"""All steps, in three that can be tried by themselves."""


def zipped(root: Path) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            opened.write(file, file.relative_to(root))
    return archive.getvalue()


@contextmanager
def served(folder: Path, settings: dict[str, Any]) -> Iterator[tuple[Site, dict[str, Any]]]:
    """Data set and checkpoint of these settings on a web server."""
    checkpoint = Path(settings["model.checkpoint"])
    with serve(b"") as site:
        site.files = {"/data.zip": zipped(folder / "data"), f"/{checkpoint.name}": checkpoint.read_bytes()}
        yield (
            site,
            settings
            | {
                "dataset.source": f"{site.address}/data.zip",
                "model.checkpoint": f"{site.address}/{checkpoint.name}",
                "dataset.allow_private_addresses": True,
            },
        )


def recovered(
    scene: Scene,
    zygote: Zygote,
    steps: list[str],
    choose: Callable[[list[Point]], list[Point]],
    tell: Callable[[list[StepKills], bool], None] = lambda *_: None,
) -> int:
    """Kill each step at those of its points that are chosen; how many kills there were, once nothing was wrong."""
    told, wrong = [], []
    for step in steps:
        scene.keep(step)
        reached, after = scene.undisturbed(zygote, step)
        scene.keep(f"{step}, done")
        assert litter(after) == []
        assert "not valid" not in json.dumps(after)
        chosen = choose(reached)
        outcome = kill_everywhere(scene, zygote, step, chosen, before=step, after=after)
        wrong += outcome.wrong
        if chosen:
            told.append(StepKills(step, len(reached), outcome.kills, outcome.recovered))
            print(told[-1], *outcome.wrong, sep="\n", flush=True)
            tell(told, False)
        scene.restore(f"{step}, done")
    tell(told, True)
    assert wrong == [], "\n".join(wrong)
    return sum(one.kills for one in told)


def first_of_each_name() -> Callable[[list[Point]], list[Point]]:
    """Points whose name no step before had, and of each name the first."""
    known: set[tuple[str, bool]] = set()

    def choose(points: list[Point]) -> list[Point]:
        chosen = []
        for point in points:
            # A step's own beginning and end are those of all.
            name = (point.name.split(" ")[-1] if point.is_step else point.name, point.tear)
            if name not in known:
                known.add(name)
                chosen.append(point)
        return chosen

    return choose


@pytest.mark.slow
def test_a_kill_at_one_point_of_each_kind_is_recovered_from(tmp_path: Path) -> None:
    """Of download, unpacking, the store and a run's own folder: a tenth of what the exhaustive test tries."""
    make_sample(tmp_path / "data", SampleSpec(train=1, calibration=2, val=2, width=200, height=150))
    checkpoint = tmp_path / "weights.safetensors"
    checkpoint.write_bytes(b"no step that runs here reads it")
    settings = {
        "preset": "sample",
        "dataset.source": str(tmp_path / "data"),
        "model.checkpoint": str(checkpoint),
        "dataset.min_persons": 1,
    }
    with served(tmp_path, settings) as (_, asked):
        scene = Scene(tmp_path, asked, key_pem(), (tmp_path / "workspace").as_uri())
        with scene.zygote() as zygote:
            zygote.warm_up(["hpe_tasks.data.fetch.coco_source", "hpe_tasks.pipeline.requantize"])
            assert recovered(scene, zygote, ["fetch_dataset"], first_of_each_name()) >= 20


@pytest.mark.long
def test_a_kill_of_the_process_that_reads_a_checkpoint_first_is_recovered_from(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    settings = tiny_settings(tmp_path)
    pickled = tmp_path / "random.pth"
    torch.save(load_file(settings["model.checkpoint"]), pickled)
    with served(tmp_path, settings | {"model.checkpoint": str(pickled)}) as (_, asked):
        scene = Scene(tmp_path, asked, key_pem(), (tmp_path / "workspace").as_uri())
        with scene.zygote() as zygote:
            zygote.warm_up(["hpe_tasks.pipeline.requantize", "hpe_tasks.models.checkpoint", "hpe_tasks.models.fit"])
            assert recovered(
                scene, zygote, ["fetch_checkpoint"], lambda points: [point for point in points if point.in_child]
            )


def scene_on_s3(tmp_path: Path, s3_bucket: S3Bucket, settings: dict[str, Any]) -> Scene:
    """The registry in a bucket, the workspace in a folder."""
    destination = {
        "destination.registry": f"s3://{s3_bucket.bucket}/registry",
        "destination.require_signature": True,
    }
    # The function's libraries are installed once for all attempts.
    environment = dict(s3_bucket.server.environment) | {"HPE_CACHE": str(tmp_path / "libraries")}
    bucket = (s3_bucket.client, s3_bucket.bucket, s3_bucket.server.client_settings)
    return Scene(tmp_path, settings | destination, key_pem(), (tmp_path / "workspace").as_uri(), environment, bucket)


@pytest.fixture
def whole(tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[Scene]:
    """All steps, with data set and checkpoint from a web server, and the registry on S3."""
    with served(tmp_path, tiny_settings(tmp_path)) as (_, settings):
        yield scene_on_s3(tmp_path, s3_bucket, settings | {"destination.smoke_test": True})


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("group", GROUPS)
def test_a_kill_at_any_point_of_any_step_is_recovered_from(whole: Scene, told_kills: TellKills, group: str) -> None:
    killed = GROUPS[group]
    steps = STEPS[: STEPS.index(killed[-1]) + 1]
    first = kill_in(whole, steps, set(killed), f"quantization, {group}", told_kills)
    # Two undisturbed runs differ in nothing but the fields that may.
    assert differences(first, whole.found()) == []


def test_the_groups_are_all_steps() -> None:
    assert sorted(step for steps in GROUPS.values() for step in steps) == sorted(STEPS)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_a_kill_at_any_point_of_the_search_for_a_recipe_is_recovered_from(whole: Scene, told_kills: TellKills) -> None:
    whole.settings |= {"recipe": "auto", "recipe.search_rungs": ["min_max", "tf_enhanced"]}
    steps = STEPS[: STEPS.index("choose_recipe") + 1]
    kill_in(whole, steps, {"try_min_max", "choose_recipe"}, "search for a recipe", told_kills)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("killed", ["fetch_dataset", "evaluate_fp32", "gate", "publish", "report"])
def test_a_kill_at_any_point_is_recovered_from_in_a_workspace_on_s3(
    whole: Scene, killed: str, told_kills: TellKills
) -> None:
    """Steps of each kind: they download, compute, judge, publish and draw."""
    assert whole.bucket is not None
    whole.workspace = f"s3://{whole.bucket[1]}/workspace"
    whole.settings |= {"destination.smoke_test": False}
    kill_in(whole, STEPS[: STEPS.index(killed) + 1], {killed}, f"workspace on S3, {killed}", told_kills)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_a_kill_at_any_point_of_a_retraining_is_recovered_from(
    tmp_path: Path, s3_bucket: S3Bucket, told_kills: TellKills
) -> None:
    settings = retraining_settings(tmp_path)
    with served(tmp_path, settings | {"model.checkpoint": str(sample_checkpoint())}) as (_, asked):
        scene = scene_on_s3(tmp_path, s3_bucket, asked)
        scene.pipeline = RETRAIN.name
        steps = [step.name for step in RETRAIN.steps]
        kill_in(scene, steps, set(steps), "retraining", told_kills)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("replaced", [False, True], ids=["new-run", "other-results-shown"])
def test_a_kill_at_any_point_of_a_step_whose_result_is_stored_is_recovered_from(
    tmp_path: Path, replaced: bool, told_kills: TellKills
) -> None:
    """Another run has made all results: a new run shows them, or one that shows those of another data set so far."""
    settings = tiny_settings(tmp_path)
    make_sample(tmp_path / "grown", SampleSpec(train=1, calibration=3, val=5, width=200, height=150))
    scene = Scene(tmp_path, settings, key_pem(), (tmp_path / "workspace").as_uri())
    steps = [step.name for step in REQUANTIZE.steps if step.reuse and not step.name.startswith("try_")]
    if replaced:
        run_all(scene, steps)
        (tmp_path / "data").rename(tmp_path / "before")
        (tmp_path / "grown").rename(tmp_path / "data")
    scene.run = "another"
    run_all(scene, steps)
    scene.run = "killed"
    kill_in(scene, steps, set(steps), f"results are stored, {'others' if replaced else 'none'} shown", told_kills)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_a_kill_at_any_point_of_a_measurement_in_parts_is_recovered_from(tmp_path: Path, told_kills: TellKills) -> None:
    """Of parts that tasks of their own make, of the step that puts them together, and of one that makes its parts."""
    settings = tiny_settings(tmp_path) | {"evaluation.shards": 2, "evaluation.batch_size": 2}
    scene = Scene(tmp_path, settings, key_pem(), (tmp_path / "workspace").as_uri())
    parts = ["evaluate_fp32, part 0", "evaluate_fp32, part 1"]
    before = STEPS[STEPS.index("fetch_checkpoint") : STEPS.index("evaluate_fp32")]
    after = STEPS[STEPS.index("evaluate_fp32") : STEPS.index("evaluate_quantized") + 1]
    killed = {*parts, "evaluate_fp32", "evaluate_quantized"}
    kill_in(scene, [*before, *parts, *after], killed, "measurement in parts", told_kills)
    stored = tmp_path / "workspace/store"
    assert [len(list((stored / f"{step}_shards").iterdir())) for step in ("evaluate_fp32", "evaluate_quantized")] == [
        2,
        4,
    ]


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_a_kill_while_images_are_fetched_by_their_addresses_is_recovered_from(
    tmp_path: Path, told_kills: TellKills
) -> None:
    """Some of them are there already, for a run that wanted fewer."""
    settings = tiny_settings(tmp_path) | {
        "dataset.source": str(tmp_path / "published"),
        "dataset.images_by_url": True,
        "dataset.allow_private_addresses": True,
    }
    with serve(b"") as site:
        images = sorted((tmp_path / "data/images").rglob("*.jpg"))
        site.files = {f"/{image.relative_to(tmp_path).as_posix()}": image.read_bytes() for image in images}
        (tmp_path / "published/annotations").mkdir(parents=True)
        for split in ("calibration", "val"):
            file = annotation_path(tmp_path / "data", split)
            content = json.loads(file.read_text())
            for image in content["images"]:
                image["coco_url"] = f"{site.address}/data/images/{split}/{image['file_name']}"
            (tmp_path / "published/annotations" / file.name).write_text(json.dumps(content))
        scene = Scene(tmp_path, settings, key_pem(), (tmp_path / "workspace").as_uri(), run="another")
        scene.settings = settings | {"recipe.calibration_images": 1}
        run_all(scene, ["fetch_dataset"])
        scene.run, scene.settings = "killed", settings
        kill_in(scene, ["fetch_dataset"], {"fetch_dataset"}, "images by their addresses", told_kills)


def run_all(scene: Scene, steps: list[str]) -> None:
    """Run steps undisturbed."""
    with scene.zygote() as zygote:
        assert zygote.run(*steps) == 0, scene.told()


def kill_in(scene: Scene, steps: list[str], killed: set[str], name: str, told_kills: TellKills) -> dict[str, Any]:
    """Run these steps, and kill some of them at each of their points; what a first, undisturbed run has left."""
    began = time.monotonic()
    scene.keep("nothing")
    with scene.zygote() as zygote:
        zygote.learn(steps)
        first = scene.found()
        scene.restore("nothing")
        under_way = iter(steps)
        kills = recovered(
            scene,
            zygote,
            steps,
            lambda points: points if next(under_way) in killed else [],
            lambda told, finished: told_kills(SceneKills(name, told, time.monotonic() - began, finished)),
        )
        assert kills > 0
    return first
