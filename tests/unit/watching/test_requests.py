"""What the function logs, read from wherever a log may be kept, and whether requests that changed are noticed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto import mock_aws

from hpe_tasks.errors import AccessError, ConfigError
from hpe_tasks.records.watch import DriftReport
from hpe_tasks.report.watch_table import bars
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.watching.drift import ServedSince, drift_reason, look_for_drift
from hpe_tasks.watching.log_lines import read_lines
from hpe_tasks.watching.requests import STATISTICS, RequestCounter
from hpe_tasks.watching.settings import GoldenPeriod, WatchSettings
from support.no_s3 import no_s3
from support.request_logs import IMAGES, answered, as_files, spread

PROMOTED = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
VERSION = "0" * 16


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return answered(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return answered(tmp_path_factory.mktemp("dark"), 0.5)


def count(lines: Iterator[dict[str, Any] | None], **options: Any) -> Any:
    return RequestCounter("tiny", VERSION, **options).add_all(lines).counted


def read(address: str, **options: Any) -> Iterator[dict[str, Any] | None]:
    return read_lines(address, **{"since": None, "until": None, "s3": no_s3} | options)


def test_every_statistic_is_counted_of_each_answered_image(usual: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("\n".join(spread(usual, PROMOTED, 1)))
    found = count(read(str(tmp_path)))
    assert found.images == IMAGES
    assert {name: one.total for name, one in found.histograms.items()} == {one.name: IMAGES for one in STATISTICS}
    means = [np.dot(line["image_mean"], [0.299, 0.587, 0.114]) for line in usual if "image_mean" in line]
    assert found.histograms["brightness"].median == pytest.approx(np.median(means), abs=0.02)
    assert found.histograms["aspect"].median == pytest.approx(80 / 60, rel=0.1)


def test_lines_are_read_from_files_and_what_is_no_line_is_counted(usual: list[dict[str, Any]], tmp_path: Path) -> None:
    lines = spread(usual, PROMOTED, 1)
    address = as_files(tmp_path / "log", [*lines, lines[0][: len(lines[0]) // 2] + '"invocation'])
    found = count(read(address))
    assert (found.images, found.unreadable_lines) == (IMAGES, 1)
    halved = count(read(address), since=PROMOTED + timedelta(hours=12))
    assert 0.4 * IMAGES < halved.images < 0.6 * IMAGES
    others = RequestCounter("tiny", "1" * 16).add_all(read(address)).counted
    assert others.images == 0


def test_lines_are_read_as_cloudwatch_and_firehose_store_them_in_s3(usual: list[dict[str, Any]]) -> None:
    lines = spread(usual, PROMOTED, 1)
    exported = "".join(f"2026-11-01T00:00:00.000Z {line}\n" for line in lines[:100]).encode()
    events = [{"id": str(number), "timestamp": 0, "message": line} for number, line in enumerate(lines[100:])]
    # Firehose joins what CloudWatch sends, without anything between.
    batches = [{"messageType": "DATA_MESSAGE", "logEvents": part} for part in (events[:50], events[50:])]
    control = {"messageType": "CONTROL_MESSAGE", "logEvents": [{"id": "", "timestamp": 0, "message": "CWL CONTROL"}]}
    sent = "".join(json.dumps(batch) for batch in (control, *batches)).encode()
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_bucket(Bucket="exports")
        client.put_object(Bucket="exports", Key="pose/task/stream/000000.gz", Body=gzip.compress(exported))
        client.put_object(Bucket="exports", Key="pose/2026/11/01/delivery", Body=sent)
        client.put_object(Bucket="exports", Key="pose-other/000000", Body=exported)
        assert count(read("s3://exports/pose", s3=lambda: client)).images == IMAGES
        # What was written before the period began has none of its lines.
        later = datetime.now(UTC) + timedelta(days=3)
        assert list(read("s3://exports/pose", s3=lambda: client, since=later)) == []
        with pytest.raises(AccessError, match="no objects below s3://exports/nothing/"):
            list(read("s3://exports/nothing", s3=lambda: client))
        client.put_object(Bucket="exports", Key="cut/000000.gz", Body=gzip.compress(exported)[:-20])
        with pytest.raises(AccessError, match=r"s3://exports/cut/000000\.gz is cut off or broken"):
            list(read("s3://exports/cut", s3=lambda: client))


def test_lines_are_read_from_a_log_group(usual: list[dict[str, Any]]) -> None:
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    with mock_aws():
        logs = boto3.client("logs", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        group = "/aws/lambda/pose"
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="one")
        events = [
            {
                "timestamp": int(datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp() * 1000),
                "message": line,
            }
            for line in spread(usual, begin, 1 / 24)
        ]
        logs.put_log_events(logGroupName=group, logStreamName="one", logEvents=events)
        assert count(read(f"logs://{group}", logs=lambda: logs)).images == IMAGES
        period = {"since": begin + timedelta(minutes=30), "until": begin + timedelta(hours=1)}
        assert (
            0.4 * IMAGES < count(read(f"logs://{group}", logs=lambda: logs, **period), **period).images < 0.6 * IMAGES
        )
        with pytest.raises(AccessError, match=r"log group /nowhere cannot be read \(ResourceNotFoundException\)"):
            list(read("logs:///nowhere", logs=lambda: logs))


@pytest.mark.parametrize("address", ["https://host/log", "ftp://host/log"])
def test_other_places_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no place of a log"):
        list(read(address))


@pytest.mark.parametrize(
    ("text", "period"),
    [
        pytest.param("7d", {"days": 7}, id="days"),
        pytest.param("14 days", {"days": 14}, id="days in words"),
        pytest.param("2000 requests", {"requests": 2000}, id="requests"),
        pytest.param(
            "2026-11-01/2026-11-08",
            {"dates": (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 8, tzinfo=UTC))},
            id="dates",
        ),
        *(
            pytest.param(text, None, id=f"not {text}")
            for text in ("", "0d", "7", "20 requests", "2026-11-08/2026-11-01", "2026-11-01/", "a/b/c")
        ),
    ],
)
def test_the_golden_period_is_one_of_three(text: str, period: dict[str, Any] | None) -> None:
    if period is None:
        with pytest.raises(ConfigError, match="The golden period is"):
            GoldenPeriod.parse(text)
    else:
        assert GoldenPeriod.parse(text) == GoldenPeriod(text, **period)


@pytest.fixture
def served() -> ServedSince:
    return ServedSince("watching/tiny", "tiny", VERSION, PROMOTED)


def judged(folder: Path, served: ServedSince, log: Path, golden: str = "7d", now: datetime = NOW) -> DriftReport:
    settings = WatchSettings(telemetry=str(log), golden=GoldenPeriod.parse(golden))

    def lines(since: datetime | None, until: datetime | None) -> Iterator[dict[str, Any] | None]:
        return read(str(log), since=since, until=until)

    return look_for_drift(served, settings, lines, LocalWorkspace(folder / "workspace"), now)


@pytest.mark.parametrize("golden", ["7d", "200 requests", "2026-11-01/2026-11-03"])
def test_darkened_images_through_the_function_are_drift_and_the_same_again_is_none(
    usual: list[dict[str, Any]], dark: list[dict[str, Any]], served: ServedSince, tmp_path: Path, golden: str
) -> None:
    log = tmp_path / "log"
    good = spread(usual, PROMOTED, 1.5)
    as_files(log, [*good, *spread(usual, NOW - timedelta(days=3), 2)])
    same = judged(tmp_path, served, log, golden)
    assert (same.not_judged, same.drifted) == ("", ())
    assert same.golden_images == (200 if "requests" in golden else IMAGES)
    # The golden period is frozen: its lines may go.
    darkened = tmp_path / "darkened"
    as_files(darkened, spread(dark, NOW - timedelta(days=3), 2))
    changed = judged(tmp_path, served, darkened, golden)
    assert changed.golden_digest == same.golden_digest
    assert {"brightness", "contrast"} <= {one.name for one in changed.drifted}
    assert {"megapixels", "aspect", "people"}.isdisjoint(one.name for one in changed.drifted)
    (brightness,) = (one for one in changed.drifted if one.name == "brightness")
    assert drift_reason(brightness, changed).startswith(f"brightness of {IMAGES} images since 2026-11-13 left that of ")
    drawn = [bars(one, 0, len(one.counts) - 1) for one in (brightness.golden, brightness.now)]
    assert drawn[0] != drawn[1]
    assert all("█" in one for one in drawn)


@pytest.mark.parametrize(
    ("golden", "lines", "now", "why"),
    [
        pytest.param("7d", 240, PROMOTED + timedelta(days=6), "the golden period ends on 2026-11-08", id="not over"),
        pytest.param("7d", 100, NOW, "the golden period has 100 images that were answered; 200", id="too few golden"),
        pytest.param("300 requests", 240, NOW, "has 240 images that were answered; 300 are", id="too few requests"),
        pytest.param("7d", 240, NOW, "answered 0 images; 200 are needed", id="too few now"),
    ],
)
def test_what_is_not_judged_says_why(
    usual: list[dict[str, Any]],
    served: ServedSince,
    tmp_path: Path,
    golden: str,
    lines: int,
    now: datetime,
    why: str,
) -> None:
    images = [line for line in usual if "image_mean" in line][:lines]
    as_files(tmp_path / "log", spread(images, PROMOTED, 1))
    found = judged(tmp_path, served, tmp_path / "log", golden, now)
    assert why in found.not_judged
    assert found.statistics == ()
