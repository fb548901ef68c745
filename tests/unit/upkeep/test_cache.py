from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hpe_tasks.config.environment import Settings
from hpe_tasks.data.fetch.download import fetch
from hpe_tasks.errors import ConfigError
from hpe_tasks.storage.files import link_file
from hpe_tasks.storage.folders import hold, let_go, make_folder, unused, use_mark
from hpe_tasks.upkeep.cache import trim_after_run, trim_cache
from support.no_s3 import no_s3
from support.other_process import other_process

KB = 1e-6
"""In GB."""


def fill(folder: Path, size: int = 1000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.jpg").write_bytes(bytes(size))


def used(path: Path, at: int) -> None:
    """Let something have been used at a time, in whatever order the test made it."""
    use_mark(path).touch()
    os.utime(use_mark(path), (at, at))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three unpacked archives of 1,000 bytes, used in another order than that of their names."""
    folder = tmp_path / "cache"
    for name, at in (("first", 3), ("second", 1), ("third", 2)):
        fill(folder / "archives" / name)
        used(folder / "archives" / name, at)
    return folder


@pytest.mark.parametrize(
    ("most_kb", "goes"),
    [
        pytest.param(None, [], id="no limit"),
        pytest.param(3, [], id="all fit"),
        pytest.param(2.9, ["second"], id="one too many"),
        pytest.param(1, ["second", "third"], id="two too many"),
        pytest.param(0, ["second", "third", "first"], id="nothing"),
    ],
)
@pytest.mark.parametrize("delete", [False, True], ids=["look", "delete"])
def test_what_was_used_longest_ago_goes_first(
    cache: Path, most_kb: float | None, goes: list[str], delete: bool
) -> None:
    trimmed = trim_cache(cache, None if most_kb is None else most_kb * KB, delete=delete)
    assert [(one.name, one.size_bytes) for one in trimmed.dropped] == [(f"archives/{name}", 1000) for name in goes]
    assert (trimmed.size_bytes, trimmed.left_bytes) == (3000, 3000 - 1000 * len(goes))
    left = {path.name for path in (cache / "archives").iterdir() if path.name[0] != "."}
    assert left == {"first", "second", "third"} - set(goes if delete else [])
    marks = {path.name for path in (cache / "archives").glob(".*")}
    assert marks == {f".{name}.used.lock" for name in left}
    assert not list((cache / "scratch").iterdir() if (cache / "scratch").is_dir() else [])


HOLDER = """
import sys, time
from pathlib import Path
from hpe_tasks.storage.folders import hold

hold(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def test_what_a_process_uses_stays_until_it_ends_however_it_does(cache: Path) -> None:
    hold(cache / "archives" / "third")
    with other_process(HOLDER, cache / "archives" / "second") as other:
        trimmed = trim_cache(cache, 0)
        assert [one.name for one in trimmed.dropped] == ["archives/first"]
        assert trimmed.in_use_bytes == 2000
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert [one.name for one in trim_cache(cache, 0).dropped] == ["archives/second"]
    let_go()
    assert [one.name for one in trim_cache(cache, 0).dropped] == ["archives/third"]


def test_a_use_begins_anew_where_its_mark_was_deleted(cache: Path) -> None:
    """The cache may be deleted at any time."""
    path = cache / "archives" / "first"
    hold(path)
    use_mark(path).unlink()
    hold(path)
    with unused(path) as free:
        assert not free


def test_each_way_into_the_cache_is_a_use(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make_folder(cache / "samples" / "drawn", fill)
    fill(cache / "samples" / "forgotten")
    assert [one.name for one in trim_cache(cache, 0).dropped] == ["samples/forgotten"]
    let_go()
    make_folder(cache / "samples" / "drawn", fill)
    assert trim_cache(cache, 0).dropped == ()


def test_downloads_go_with_what_is_known_of_them(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = cache / "downloads" / "0123456789abcdef"
    fill(folder)
    for name in ("image.jpg.json", "image.jpg.part", "image.jpg.part.json", "other.zip.part", ".image.jpg.lock"):
        (folder / name).touch()
    hold(folder / "other.zip")
    assert [one.name for one in trim_cache(cache, 0).dropped] == ["downloads/0123456789abcdef/image.jpg"]
    # Who waits for a lock must find it again.
    assert {path.name for path in folder.iterdir()} == {".image.jpg.lock", "other.zip.part", ".other.zip.used.lock"}


def test_a_local_file_is_not_marked(tmp_path: Path) -> None:
    (tmp_path / "own.zip").write_bytes(b"own")
    fetch(str(tmp_path / "own.zip"), tmp_path / "cache" / "downloads", sha256=None, s3=no_s3)
    assert {path.name for path in tmp_path.iterdir()} == {"own.zip"}


def test_images_count_once_and_stay_as_long_as_a_selection_has_them(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    pool = cache / "images" / "ab"
    pool.mkdir(parents=True)
    for name in ("used", "alone"):
        (pool / name).write_bytes(bytes(1000))
    (cache / "selections" / "one").mkdir(parents=True)
    link_file(pool / "used", cache / "selections" / "one" / "000.jpg")
    hold(cache / "selections" / "one")
    trimmed = trim_cache(cache, 0)
    assert (trimmed.size_bytes, [(one.name, one.size_bytes) for one in trimmed.dropped]) == (2000, [("images", 1000)])
    assert {path.name for path in pool.iterdir()} == {"used"}
    let_go()
    trimmed = trim_cache(cache, 0)
    assert [(one.name, one.size_bytes) for one in trimmed.dropped] == [("selections/one", 0), ("images", 1000)]
    assert not list(pool.iterdir())


def test_what_the_cache_is_not_asked_to_drop_stays(tmp_path: Path) -> None:
    """What addresses gave when they were first used, remembered digests, and the self-test's runs."""
    cache = tmp_path / "cache"
    for name in ("trusted", "digests", "selftest"):
        fill(cache / name)
    assert trim_cache(cache, 0).dropped == ()
    assert len(list(cache.rglob("image.jpg"))) == 3


def test_what_killed_processes_left_unfinished_goes(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    for name in ("one", "two"):
        fill(archives / f".{name}.x1y2z3.extracting")
    hold(archives / "two")
    trim_cache(tmp_path, None)
    assert {path.name for path in archives.iterdir()} == {".two.x1y2z3.extracting", ".two.used.lock"}


def test_a_run_ends_with_a_cache_of_its_size(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    trim_after_run(cache, None)
    assert trim_cache(cache, None).size_bytes == 3000
    hold(cache / "archives" / "second")
    with caplog.at_level("INFO"):
        trim_after_run(cache, 0)
    assert trim_cache(cache, None).size_bytes == 1000
    assert "archives/third was dropped from the cache" in caplog.text
    assert "holds 1,000 bytes, more than HPE_CACHE_MAX_GB allows" in caplog.text


@pytest.mark.parametrize(("text", "gb"), [(None, None), ("", None), ("0.5", 0.5), ("50", 50.0), ("0", 0.0)])
def test_the_size_is_a_setting_of_the_machine(monkeypatch: pytest.MonkeyPatch, text: str | None, gb: float) -> None:
    monkeypatch.delenv("HPE_CACHE_MAX_GB", raising=False)
    if text is not None:
        monkeypatch.setenv("HPE_CACHE_MAX_GB", text)
    assert Settings.from_environment().cache_max_gb == gb


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "50 GB"])
def test_a_size_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HPE_CACHE_MAX_GB", text)
    with pytest.raises(ConfigError, match="HPE_CACHE_MAX_GB is"):
        Settings.from_environment()
