from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws

from hpe_tasks.data.fetch.download import fetch_file
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.errors import AccessError, ConfigError, DigestError, HpeError, StorageError, TransientError
from hpe_tasks.storage.folders import locked
from support.faulty_server import Mood, Site, serve
from support.no_s3 import no_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONTENT = random.Random(0).randbytes(3 * 2**20 + 17)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = HttpPatience(connect_timeout_s=2, read_timeout_s=0.5, retries=2, first_wait_s=0.01, longest_wait_s=2)
CUT = 2**20 + 5000


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(CONTENT) as site:
        yield site


def get(site: Site, folder: Path, path: str = "/files/weights.pth", **kw: Any) -> Path:
    usual = {"sha256": None, "s3": no_s3, "patience": PATIENCE, "allow_private_addresses": True}
    return fetch_file(site.address + path, folder, **(usual | kw))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_download_is_kept_and_not_repeated(site: Site, tmp_path: Path) -> None:
    path = get(site, tmp_path / "deep" / "folder")
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["weights.pth", "weights.pth.json"]
    assert get(site, path.parent) == path
    assert site.headers_sent("If-None-Match") == [None, '"v1"']


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["asked again", "known by its digest"])
def test_what_a_process_left_that_was_killed_at_the_last_moment_goes(
    site: Site, tmp_path: Path, sha256: str | None
) -> None:
    """The download was complete under its name, and what was remembered of its part was still there."""
    path = get(site, tmp_path)
    (tmp_path / "weights.pth.part.json").write_bytes((tmp_path / "weights.pth.json").read_bytes())
    assert get(site, tmp_path, sha256=sha256) == path
    assert names(tmp_path) == ["weights.pth", "weights.pth.json"]


def test_no_request_when_the_promised_bytes_are_there(site: Site, tmp_path: Path) -> None:
    get(site, tmp_path)
    get(site, tmp_path, sha256=DIGEST)
    assert len(site.requests) == 1


def test_file_that_was_changed_here_is_fetched_again(site: Site, tmp_path: Path) -> None:
    path = get(site, tmp_path)
    path.write_bytes(b"scribble")
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_new_version_replaces_the_old(site: Site, tmp_path: Path) -> None:
    get(site, tmp_path)
    site.content, site.etag = b"new", '"v2"'
    assert get(site, tmp_path).read_bytes() == b"new"
    assert names(tmp_path) == ["weights.pth", "weights.pth.json"]


@pytest.mark.parametrize("etag", ['"v1"', None], ids=["etag", "date only"])
def test_unchanged_is_seen_where_the_server_ignores_conditions(site: Site, tmp_path: Path, etag: str | None) -> None:
    site.conditions, site.etag = False, etag
    path = get(site, tmp_path)
    before = path.stat().st_mtime_ns
    assert get(site, tmp_path).stat().st_mtime_ns == before


def test_other_address_with_the_same_name(site: Site, tmp_path: Path) -> None:
    get(site, tmp_path, "/one/weights.pth")
    site.content, site.conditions = b"other", True
    assert get(site, tmp_path, "/two/weights.pth").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("etag", "modified", "if_range"),
    [
        pytest.param('"v1"', None, '"v1"', id="etag"),
        pytest.param('W/"v1"', "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", id="weak etag"),
        pytest.param(None, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", id="date"),
    ],
)
@pytest.mark.parametrize("mood", [Mood(cut_after=CUT), Mood(stall_after=CUT)], ids=["cut", "stalled"])
def test_interrupted_download_is_continued(
    site: Site, tmp_path: Path, etag: str | None, modified: str | None, if_range: str, mood: Mood
) -> None:
    site.etag, site.modified = etag, modified
    site.moods.append(mood)
    with pytest.raises(TransientError, match=r"weights.pth") as caught:
        get(site, tmp_path)
    assert "continues where it stopped" in caught.value.hint
    part = tmp_path / "weights.pth.part"
    assert names(tmp_path) == ["weights.pth.part", "weights.pth.part.json"]
    size = part.stat().st_size
    assert 2**20 <= size <= CUT
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.headers_sent("Range") == [None, f"bytes={size}-"]
    assert site.headers_sent("If-Range") == [None, if_range]
    assert names(tmp_path) == ["weights.pth", "weights.pth.json"]


def interrupt(site: Site, folder: Path, **kw: Any) -> None:
    site.moods.append(Mood(cut_after=CUT))
    with pytest.raises(TransientError):
        get(site, folder, **kw)


def test_changed_file_is_not_joined_with_the_old_part(site: Site, tmp_path: Path) -> None:
    interrupt(site, tmp_path)
    site.content, site.etag, site.modified = bytes(len(CONTENT)), '"v2"', "Thu, 22 Oct 2015 07:28:00 GMT"
    assert get(site, tmp_path).read_bytes() == site.content


def test_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    interrupt(site, tmp_path)
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_part_of_an_unknown_version_is_only_continued_with_a_digest(site: Site, tmp_path: Path) -> None:
    site.etag = site.modified = None
    interrupt(site, tmp_path)
    get(site, tmp_path)
    assert site.headers_sent("Range") == [None, None]
    interrupt(site, tmp_path / "b", sha256=DIGEST)
    assert get(site, tmp_path / "b", sha256=DIGEST).read_bytes() == CONTENT
    assert site.headers_sent("Range")[-1] is not None


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}",
        f"bytes {2**20}-{len(CONTENT) - 1}/{len(CONTENT) + 1}",
        "bytes */7",
        "nonsense",
        None,
    ],
)
def test_server_that_lies_about_the_range(site: Site, tmp_path: Path, content_range: str | None) -> None:
    interrupt(site, tmp_path)
    site.moods.append(Mood(headers={"Content-Range": content_range}))
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_complete_part_needs_one_byte(site: Site, tmp_path: Path) -> None:
    """The process was killed between the last byte and the renaming."""
    interrupt(site, tmp_path)
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.headers_sent("Range")[-1] == f"bytes={len(CONTENT) - 1}-"


@pytest.mark.parametrize("left", ["", "{", '{"identity": 1}', "[]"])
def test_damaged_notes_mean_a_fresh_start(site: Site, tmp_path: Path, left: str) -> None:
    interrupt(site, tmp_path)
    (tmp_path / "weights.pth.part.json").write_text(left)
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.headers_sent("Range") == [None, None]


def test_server_that_promises_more_than_it_sends(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(headers={"Content-Length": str(len(CONTENT) + 100)}, cut_after=len(CONTENT)))
    with pytest.raises(TransientError):
        get(site, tmp_path)
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_server_that_promises_less_than_it_has_is_found_by_the_digest(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(headers={"Content-Length": "1000"}))
    with pytest.raises(DigestError):
        get(site, tmp_path, sha256=DIGEST)


def test_what_a_lying_server_sent_gives_way_to_what_was_promised(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(headers={"Content-Length": "1000"}))
    assert get(site, tmp_path).read_bytes() == CONTENT[:1000]
    with pytest.raises(DigestError):
        get(site, tmp_path, sha256=DIGEST)
    assert get(site, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_no_length_at_all(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(headers={"Content-Length": None}))
    assert get(site, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


def test_wrong_digest_leaves_nothing(site: Site, tmp_path: Path) -> None:
    for _ in range(2):  # A fresh download, and one that is there without a promise.
        with pytest.raises(DigestError, match=f"weights.pth has the SHA-256 {DIGEST}, not {'0' * 64}"):
            get(site, tmp_path, sha256="0" * 64)
        assert names(tmp_path) == []
        get(site, tmp_path)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "denied"),
        (403, "denied"),
        (404, "does not exist"),
        (410, "does not exist"),
        (400, "refused"),
        (301, "refused"),
    ],
)
def test_refusals_are_not_repeated(site: Site, tmp_path: Path, status: int, says: str) -> None:
    site.moods.append(Mood(status=status))
    with pytest.raises(AccessError, match=f"{says}.*{status}"):
        get(site, tmp_path)
    assert len(site.requests) == 1
    assert names(tmp_path) == []


def test_redirects_are_followed(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(status=302, headers={"Location": "/mirror/of/weights"}))
    assert get(site, tmp_path).name == "weights.pth"
    assert site.paths() == ["/files/weights.pth", "/mirror/of/weights"]


def test_redirects_in_a_loop(site: Site, tmp_path: Path) -> None:
    site.moods += [Mood(status=302, headers={"Location": "/files/weights.pth"})] * 100
    with pytest.raises(AccessError, match=r"files/weights.pth redirects without end"):
        get(site, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://example.com/x", "http://[bad/x"])
def test_redirects_to_no_web_page(site: Site, tmp_path: Path, location: str) -> None:
    site.moods.append(Mood(status=302, headers={"Location": location}))
    with pytest.raises(AccessError, match="is not an address that leads to a file"):
        get(site, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_overloaded_server_is_asked_again(site: Site, tmp_path: Path, status: int) -> None:
    site.moods += [Mood(status=status), Mood(status=status)]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_server_that_stays_overloaded(site: Site, tmp_path: Path) -> None:
    site.moods += [Mood(status=503)] * 5
    with pytest.raises(TransientError, match="answered 503"):
        get(site, tmp_path)
    assert len(site.requests) == 3


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(site: Site, tmp_path: Path, as_date: bool) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "1"
    site.moods.append(Mood(status=503, headers={"Retry-After": value}))
    started = time.monotonic()
    get(site, tmp_path)
    assert 0.9 <= time.monotonic() - started < 5


@pytest.mark.parametrize("value", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_long_retry_after_is_left_to_the_caller(site: Site, tmp_path: Path, value: str) -> None:
    site.moods.append(Mood(status=429, headers={"Retry-After": value}))
    with pytest.raises(TransientError, match="answered 429"):
        get(site, tmp_path)
    assert len(site.requests) == 1


def test_odd_retry_after_is_ignored(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(status=503, headers={"Retry-After": "soon"}))
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_nobody_listens(tmp_path: Path) -> None:
    with serve(b"") as site:
        pass
    with pytest.raises(TransientError, match="failed or was cut"):
        get(site, tmp_path, "/a")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        pytest.param("http://", AccessError, id="no host"),
        pytest.param("http://[bad/x", ConfigError, id="bad address"),
        pytest.param("ftp://example.com/x", ConfigError, id="scheme"),
        pytest.param("gs://bucket/x", ConfigError, id="cloud"),
        pytest.param("/no/such/file", AccessError, id="path"),
        pytest.param("file:///no/such/file", AccessError, id="file address"),
        pytest.param("/", AccessError, id="folder"),
    ],
)
def test_addresses_that_lead_nowhere(tmp_path: Path, source: str, kind: type[HpeError]) -> None:
    with pytest.raises(kind) as caught:
        fetch_file(source, tmp_path, sha256=None, s3=no_s3, patience=PATIENCE)
    assert caught.value.hint


def test_secrets_of_the_address_are_not_shown_or_stored(site: Site, tmp_path: Path) -> None:
    address = site.address.replace("http://", "http://user:hunter2@") + "/weights.pth?X-Amz-Signature=s3cr3t"
    site.moods += [Mood(status=403), Mood(cut_after=CUT)]
    for kind in (AccessError, TransientError):
        with pytest.raises(kind) as caught:
            get_secretly(address, tmp_path)
        assert "hunter2" not in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
    assert names(tmp_path) == ["weights.pth.part", "weights.pth.part.json"]
    assert not any(b"hunter2" in p.read_bytes() or b"s3cr3t" in p.read_bytes() for p in tmp_path.iterdir())
    assert site.headers_sent("Authorization")[0] is not None


SECRETS = ("hunter2", "s3cr3t")


def with_secrets(address: str, path: str = "/weights.pth") -> str:
    return address.replace("://", f"://user:{SECRETS[0]}@") + f"{path}?X-Amz-Signature={SECRETS[1]}"


LOOP = Mood(status=302, headers={"Location": "/weights.pth?X-Amz-Signature=s3cr3t"})


@pytest.mark.parametrize(
    ("moods", "says"),
    [
        pytest.param([Mood(status=403)], "was denied", id="403"),
        pytest.param([Mood(status=404)], "does not exist", id="404"),
        pytest.param([Mood(status=400)], "was refused", id="400"),
        pytest.param([Mood(status=503)] * 3, "answered 503", id="503"),
        pytest.param([LOOP] * 40, "redirects without end", id="loop"),
        pytest.param(
            [Mood(status=302, headers={"Location": "ftp://user:hunter2@example.com/x?s3cr3t"})],
            r"is not an address that leads to a file \(InvalidSchema\)",
            id="redirect to no web page",
        ),
        pytest.param([Mood(cut_after=CUT)], r"failed or was cut \(ChunkedEncodingError", id="cut"),
        pytest.param([Mood(stall_after=CUT)], r"did not answer|failed or was cut \(ConnectionError", id="stalls"),
        pytest.param(
            [Mood(headers={"Content-Encoding": "gzip"})], r"was cut \(ContentDecodingError", id="no gzip at all"
        ),
    ],
)
def test_tracebacks_hold_no_secret(site: Site, tmp_path: Path, moods: list[Mood], says: str) -> None:
    site.moods += moods
    with pytest.raises(HpeError, match=says):
        shown_by(lambda: get_secretly(with_secrets(site.address), tmp_path))


def test_tracebacks_of_failed_connections_hold_no_secret(site: Site, tmp_path: Path) -> None:
    with serve(b"") as gone:
        nowhere = gone.address
    for address, says in (
        (nowhere, r"failed or was cut \(ConnectionError: Connection refused\)"),
        (site.address.replace("http:", "https:"), r"certificate .* was not accepted \(SSLError: .*SSL.*\)"),
        ("http://no-such-host.invalid", r"failed or was cut \(ConnectionError: .+\)"),
        ("http://[bad", "begins with http:// cannot be understood"),
        ("http://exa\u2100mple.com", "begins with http:// cannot be understood"),  # Python quotes user and password.
        ("http://127.0.0.1:99999", "is not an address that leads to a file"),
    ):
        with pytest.raises(HpeError, match=says):
            shown_by(partial(get_secretly, with_secrets(address), tmp_path))


def get_secretly(source: str, folder: Path) -> None:
    fetch_file(source, folder, sha256=None, s3=no_s3, patience=PATIENCE, allow_private_addresses=True)


def shown_by(fail: Callable[[], object]) -> None:
    """Run what fails, and look at what Airflow and Python would print."""
    try:
        fail()
    except HpeError:
        text = traceback.format_exc()
        assert not [secret for secret in SECRETS if secret in text], text
        raise


@pytest.mark.parametrize("path", ["/..%2f..%2fetc%2fpasswd", "/", "/.hidden", "/a%00b", "/" + "x" * 400])
def test_file_names_of_addresses_are_safe(site: Site, tmp_path: Path, path: str) -> None:
    found = get(site, tmp_path / "in", path)
    assert found.parent == tmp_path / "in"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_disk_full_leaves_nothing(site: Site, tmp_path: Path) -> None:
    # Writing to this device fails as a full disk does.
    (tmp_path / "weights.pth.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"disk is full: .*weights.pth.part .*needs 3.1 MB"):
        get(site, tmp_path)
    assert names(tmp_path) == []


def test_space_is_checked_before(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20})())
    with pytest.raises(StorageError, match=r"needs 3.1 MB more, but its disk has only 1.0 MB free"):
        get(site, tmp_path)
    assert names(tmp_path) == []


def test_folder_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be written"):
        get(site, tmp_path / "file")


def test_two_processes_do_not_write_one_part(site: Site, tmp_path: Path) -> None:
    threads = [threading.Thread(target=get, args=(site, tmp_path)) for _ in range(4)]
    with locked(tmp_path / "weights.pth"):
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert site.requests == []
    for thread in threads:
        thread.join()
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    assert site.headers_sent("If-None-Match").count('"v1"') == 3


@pytest.mark.parametrize("form", ["{path}", "file://{path}"])
def test_local_file_is_used_in_place(tmp_path: Path, form: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    source = form.format(path=path)
    assert fetch_file(source, tmp_path / "cache", sha256=DIGEST, s3=no_s3) == path
    with pytest.raises(DigestError, match="not 000"):
        fetch_file(source, tmp_path / "cache", sha256="0" * 64, s3=no_s3)
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Client]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client


def test_s3_object(bucket: S3Client, tmp_path: Path) -> None:
    bucket.put_object(Bucket="bucket", Key="a/weights.pth", Body=CONTENT)
    path = fetch_file("s3://bucket/a/weights.pth", tmp_path, sha256=DIGEST, s3=lambda: bucket)
    assert path.read_bytes() == CONTENT
    before = path.stat().st_mtime_ns
    assert (
        fetch_file("s3://bucket/a/weights.pth", tmp_path, sha256=None, s3=lambda: bucket).stat().st_mtime_ns == before
    )
    bucket.put_object(Bucket="bucket", Key="a/weights.pth", Body=b"new")
    assert fetch_file("s3://bucket/a/weights.pth", tmp_path, sha256=None, s3=lambda: bucket).read_bytes() == b"new"


@pytest.mark.parametrize("source", ["s3://bucket/none", "s3://nobody/none"])
def test_s3_object_that_does_not_exist(bucket: S3Client, tmp_path: Path, source: str) -> None:
    with pytest.raises(AccessError, match="does not exist"):
        fetch_file(source, tmp_path, sha256=None, s3=lambda: bucket)
    assert names(tmp_path) == []


def faulty_s3(site: Site) -> S3Client:
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=site.address,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(read_timeout=0.5, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )
    return client


@pytest.mark.parametrize("mood", [Mood(cut_after=CUT), Mood(stall_after=CUT)], ids=["cut", "stalled"])
def test_interrupted_s3_download_is_continued(site: Site, tmp_path: Path, mood: Mood) -> None:
    client = faulty_s3(site)
    site.moods.append(mood)
    with pytest.raises(TransientError, match=r"s3://bucket/weights\.pth"):
        fetch_file("s3://bucket/weights.pth", tmp_path, sha256=None, s3=lambda: client)
    size = (tmp_path / "weights.pth.part").stat().st_size
    assert 0 < size <= CUT
    assert fetch_file("s3://bucket/weights.pth", tmp_path, sha256=None, s3=lambda: client).read_bytes() == CONTENT
    assert site.headers_sent("Range")[-1] == f"bytes={size}-"
    assert site.headers_sent("If-Match")[-1] == '"v1"'


@pytest.mark.parametrize(("status", "kind"), [(403, AccessError), (404, AccessError), (503, TransientError)])
def test_s3_refusals(site: Site, tmp_path: Path, status: int, kind: type[HpeError]) -> None:
    site.moods.append(Mood(status=status))
    client = faulty_s3(site)
    with pytest.raises(kind):
        fetch_file("s3://bucket/weights.pth", tmp_path, sha256=None, s3=lambda: client)


@pytest.mark.parametrize("status", [None, 401, 403, 404, 500])
def test_tracebacks_of_s3_hold_no_secret(site: Site, tmp_path: Path, status: int | None) -> None:
    address = site.address
    if status is None:
        with serve(b"") as gone:
            address = gone.address
    else:
        site.moods.append(Mood(status=status))
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key=SECRETS[0],
        aws_session_token=SECRETS[1],
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )
    with pytest.raises(HpeError):
        shown_by(lambda: fetch_file("s3://bucket/weights.pth", tmp_path, sha256=None, s3=lambda: client))


def test_s3_object_that_is_replaced_meanwhile(site: Site, tmp_path: Path) -> None:
    site.moods.append(Mood(status=412))
    client = faulty_s3(site)
    with pytest.raises(TransientError, match="was replaced"):
        fetch_file("s3://bucket/weights.pth", tmp_path, sha256=None, s3=lambda: client)


def test_locks_of_killed_processes_do_not_block(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with locked(tmp_path / "x"):
            os._exit(0)
    os.waitpid(child, 0)
    with locked(tmp_path / "x"):
        pass


def test_notes_are_json_without_the_address(site: Site, tmp_path: Path) -> None:
    get(site, tmp_path)
    notes = json.loads((tmp_path / "weights.pth.json").read_text())
    assert notes["sha256"] == DIGEST
    assert "127.0.0.1" not in str(notes)


def test_device_full_is_what_the_test_thinks() -> None:
    with pytest.raises(OSError, match="No space") as caught, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    assert caught.value.errno == errno.ENOSPC
