"""Addresses that lead to what only this machine reaches are refused: with real servers on loopback, and redirects."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.data.fetch import addresses, fetch_boxes, fetch_dataset
from hpe_tasks.data.fetch.addresses import is_public
from hpe_tasks.data.fetch.download import fetch_file, look
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.errors import AccessError, DatasetError, HpeError, TransientError
from support.coco_factory import CALIBRATION, EVALUATION, edited, write_coco
from support.faulty_server import Mood, Site, serve
from support.no_s3 import no_s3

PATIENCE = HttpPatience(connect_timeout_s=2, read_timeout_s=2, retries=0, first_wait_s=0.01, longest_wait_s=1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("64:ff9b::5db8:d822", True),
        ("2002:5db8:d822::1", True),
        ("::ffff:93.184.216.34", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.31.255.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),
        ("2002:c0a8:1::1", False),
        ("2001:0:7f00:1::", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
    ],
)
def test_which_addresses_everybody_reaches(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_every_preset_refuses_them_by_default() -> None:
    for name in PRESETS:
        given = {"model.checkpoint": "m.onnx", "dataset.source": "data"}
        assert not load_config(name, overrides=given).dataset.allow_private_addresses, name


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(b"inner secret") as site:
        yield site


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def get(address: str, folder: Path, **options: Any) -> Path:
    return fetch_file(address, folder, **{"sha256": None, "s3": no_s3, "patience": PATIENCE, **options})


def port_of(site: Site) -> int:
    return int(site.address.rpartition(":")[2])


HOSTS = [
    "127.0.0.1",
    "localhost",
    "0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_of_this_machine_is_not_asked_however_it_is_written(site: Site, tmp_path: Path, host: str) -> None:
    with pytest.raises(AccessError, match="an address that is not public") as caught:
        get(f"http://{host}:{port_of(site)}/latest/meta-data", tmp_path)
    assert "dataset.allow_private_addresses=true" in caught.value.hint
    assert site.requests == []
    with pytest.raises(AccessError, match="an address that is not public"):
        look(f"http://{host}:{port_of(site)}/x", tmp_path, s3=no_s3, patience=PATIENCE)


def test_the_setting_allows_it(site: Site, tmp_path: Path) -> None:
    found = get(f"{site.address}/x", tmp_path, allow_private_addresses=True)
    assert found.read_bytes() == b"inner secret"


def test_the_message_does_not_tell_which_ports_are_open(site: Site, closed_port: int, tmp_path: Path) -> None:
    told = set()
    for port in (port_of(site), closed_port):
        for scheme in ("http", "https"):
            with pytest.raises(HpeError) as caught:
                get(f"{scheme}://127.0.0.1:{port}/x", tmp_path)
            told.add((type(caught.value), str(caught.value).replace(f"{scheme}://127.0.0.1:{port}/x", "ADDRESS")))
    assert len(told) == 1


class Names:
    """Stands for the names of a test; whatever else is looked up goes to the system. Counts the look-ups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: Any, *args: Any, **options: Any) -> Any:
        if host not in self.known:
            if not host.replace(".", "").isdigit():
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return self._system(host, port, *args, **options)
        self.asked.append(host)
        answers = self.known[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in answer]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 counts as public: a server there stands for one of the internet."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.2" or real(address))


class Outside:
    """A server on 127.0.0.2, which the fixture `outside` takes for public; answers what it is told to."""

    def __init__(
        self, answer: Callable[[str], tuple[int, dict[str, str], bytes]], context: ssl.SSLContext | None
    ) -> None:
        self.hosts: list[str] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.hosts.append(self.headers["Host"])
                outer.paths.append(self.path)
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Outside:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def serve_outside(
    answer: Callable[[str], tuple[int, dict[str, str], bytes]] = lambda _: (200, {}, b"from outside"),
    context: ssl.SSLContext | None = None,
) -> Outside:
    return Outside(answer, context)


@pytest.mark.usefixtures("outside")
def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(names: Names, site: Site, tmp_path: Path) -> None:
    with serve_outside() as server:
        # The second answer would lead to a server of this machine: a rebinding of the name.
        names.known["images.example.com"] = [["127.0.0.2"], ["127.0.0.1"]]
        assert get(f"http://images.example.com:{server.port}/x", tmp_path).read_bytes() == b"from outside"
        assert server.hosts == [f"images.example.com:{server.port}"]
        assert names.asked == ["images.example.com"]
    with pytest.raises(AccessError, match="not public"):
        get(f"http://images.example.com:{port_of(site)}/x", tmp_path)
    assert site.requests == []


@pytest.mark.usefixtures("outside")
def test_one_private_address_among_public_ones_is_enough(names: Names, site: Site, tmp_path: Path) -> None:
    names.known["both.example.com"] = [["127.0.0.2", "127.0.0.1"]]
    with pytest.raises(AccessError, match="not public"):
        get(f"http://both.example.com:{port_of(site)}/x", tmp_path)
    assert site.requests == []


@pytest.mark.usefixtures("outside")
def test_the_next_address_is_tried_where_one_does_not_answer(
    names: Names, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.3" or checked(address))
    with serve_outside() as server:
        names.known["two.example.com"] = [["127.0.0.3", "127.0.0.2"]]
        assert get(f"http://two.example.com:{server.port}/x", tmp_path).read_bytes() == b"from outside"


def test_a_name_that_nobody_knows_is_passing_trouble(names: Names, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="failed or was cut"):
        get("http://no-such-name.example.com/x", tmp_path)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "inner.example.com", "[::1]"])
def test_a_redirect_does_not_lead_inside(
    names: Names, site: Site, closed_port: int, tmp_path: Path, host: str, scheme: str
) -> None:
    names.known |= {"images.example.com": [["127.0.0.2"]], "inner.example.com": [["127.0.0.1"]]}
    names.known["::1"] = [["::1"]]
    told = set()
    for port in (port_of(site), closed_port):
        where = {"Location": f"{scheme}://{host}:{port}/latest/meta-data"}
        with serve_outside(lambda _, where=where: (302, where, b"")) as server:  # type: ignore[misc]
            source = f"http://images.example.com:{server.port}/x"
            with pytest.raises(AccessError, match="not public") as caught:
                get(source, tmp_path)
            assert server.paths == ["/x"]
            told.add(str(caught.value).replace(source, "ADDRESS"))
    assert site.requests == []
    assert len(told) == 1
    assert str(port_of(site)) not in told.pop()


@pytest.mark.usefixtures("outside")
def test_a_redirect_to_another_public_server_is_followed(names: Names, tmp_path: Path) -> None:
    names.known |= {"images.example.com": [["127.0.0.2"]], "mirror.example.com": [["127.0.0.2"]]}

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        moved = {"Location": f"http://mirror.example.com:{server.port}/moved"}
        return (302, moved, b"") if path == "/x" else (200, {}, b"moved here")

    with serve_outside(answer) as server:
        assert get(f"http://images.example.com:{server.port}/x", tmp_path).read_bytes() == b"moved here"
        assert [host.partition(":")[0] for host in server.hosts] == ["images.example.com", "mirror.example.com"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for images.example.com, and its key."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "images.example.com")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files[0].write_bytes(signed.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@pytest.mark.usefixtures("outside")
def test_the_certificate_is_that_of_the_name_and_not_of_the_address(
    names: Names, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    asked: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.sni_callback = lambda _, name, __: asked.append(str(name))
    names.known |= {name: [["127.0.0.2"]] for name in ("images.example.com", "other.example.com")}
    with serve_outside(context=context) as server:
        assert get(f"https://images.example.com:{server.port}/x", tmp_path / "a").read_bytes() == b"from outside"
        assert asked == ["images.example.com"]
        with pytest.raises(AccessError, match=r"certificate .* was not accepted"):
            get(f"https://other.example.com:{server.port}/x", tmp_path / "b")


@pytest.mark.parametrize("host", ["127.0.0.1", "inner.example.com"])
def test_with_a_proxy_what_is_known_to_be_private_is_refused_too(
    names: Names, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    names.known["inner.example.com"] = [["10.0.0.7"]]
    monkeypatch.setenv("HTTP_PROXY", site.address)
    monkeypatch.setenv("HTTPS_PROXY", site.address)
    for scheme in ("http", "https"):
        with pytest.raises(AccessError, match="not public"):
            get(f"{scheme}://{host}:8080/x", tmp_path)
    assert site.requests == []


@pytest.mark.parametrize("known", [True, False], ids=["public name", "name that only the proxy knows"])
def test_a_proxy_of_a_private_network_is_asked_for_public_names(
    names: Names, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool
) -> None:
    if known:
        names.known["images.example.com"] = [["93.184.216.34"]]
    monkeypatch.setenv("HTTP_PROXY", site.address)
    assert get("http://images.example.com/x", tmp_path).read_bytes() == b"inner secret"
    assert site.paths() == ["http://images.example.com/x"]


def test_a_redirect_behind_a_proxy_is_checked_as_well(
    names: Names, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names.known["images.example.com"] = [["93.184.216.34"]]
    site.moods.append(Mood(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"}))
    monkeypatch.setenv("HTTP_PROXY", site.address)
    with pytest.raises(AccessError, match="not public"):
        get("http://images.example.com/x", tmp_path)
    assert site.paths() == ["http://images.example.com/x"]


def test_hosts_that_bypass_the_proxy_are_checked_at_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(AccessError, match="not public"):
        get(f"{site.address}/x", tmp_path)
    assert get(f"{site.address}/x", tmp_path, allow_private_addresses=True).read_bytes() == b"inner secret"
    assert len(site.requests) == 1


def test_credentials_come_from_netrc(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password lovelace\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    get(f"{site.address}/x", tmp_path / "in", allow_private_addresses=True)
    assert site.headers_sent("Authorization") == [f"Basic {base64.b64encode(b'ada:lovelace').decode()}"]


def test_an_image_record_cannot_lead_inside(site: Site, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco")
    for split in (CALIBRATION, EVALUATION):
        with edited(root, split) as content:
            for row in content["images"]:
                row["coco_url"] = f"{site.address}/latest/meta-data/{row['file_name']}"
    config = DatasetConfig(source=str(root), images_by_url=True)
    with pytest.raises(DatasetError, match=r"images could not be fetched: .*an address that is not public"):
        fetch_dataset(config, tmp_path / "cache", no_s3)
    assert site.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(lambda inner, _: {"source": f"{inner}/coco.zip"}, id="source"),
        pytest.param(lambda inner, _: {"source": f"{inner}/mpii.mat", "kind": "mpii"}, id="MPII's annotations"),
        pytest.param(
            lambda inner, root: {"source": str(root), "image_archives": (f"{inner}/images.zip",)}, id="image archive"
        ),
    ],
)
def test_no_setting_of_a_data_set_leads_inside(
    site: Site, tmp_path: Path, fields: Callable[[str, Path], dict[str, Any]]
) -> None:
    config = DatasetConfig(**fields(site.address, write_coco(tmp_path / "coco")))
    with pytest.raises(AccessError, match="an address that is not public"):
        fetch_dataset(config, tmp_path / "cache", no_s3)
    assert site.requests == []


def test_boxes_do_not_come_from_inside(site: Site, tmp_path: Path) -> None:
    config = DatasetConfig(source="data", boxes=f"{site.address}/boxes.json")
    with pytest.raises(AccessError, match="an address that is not public"):
        fetch_boxes(config, tmp_path / "cache", no_s3)
    assert site.requests == []


def test_a_checkpoint_does_not_come_from_inside(site: Site, tmp_path: Path) -> None:
    from hpe_tasks.pipeline import steps
    from hpe_tasks.pipeline.runs import open_run
    from hpe_tasks.preflight import _Looks

    config = load_config("sample", overrides={"model.checkpoint": f"{site.address}/weights.safetensors"})
    run = open_run(config, workspace=(tmp_path / "w").as_uri(), cache=tmp_path / "c", name="r", s3=no_s3)
    with pytest.raises(AccessError, match="an address that is not public"):
        steps.fetch_checkpoint(run)
    looks = _Looks(config, run.workspace, run.cache, no_s3, signing_key=lambda: None, publishing=False)
    (found,) = (check.carry_out()[0] for check in looks.checks() if check.name == "checkpoint")
    assert found.state == "failed"
    assert "an address that is not public" in found.found
    assert site.requests == []
