"""Which hosts the embedded S3 server answers as. What else it refuses: tests/integration/test_guarded_ministack.py."""

from __future__ import annotations

import pytest

from hpe_tasks.local.guarded_ministack import OWN_HOSTS, refusal

IN_A_NETWORK = OWN_HOSTS | {"s3"}


@pytest.mark.parametrize(
    ("host", "hosts", "refused"),
    [
        pytest.param(b"127.0.0.1:4566", OWN_HOSTS, False, id="loopback"),
        pytest.param(b"s3:4566", OWN_HOSTS, True, id="a name that it was not given"),
        pytest.param(b"s3:4566", IN_A_NETWORK, False, id="the name that it was given"),
        pytest.param(b"S3", IN_A_NETWORK, False, id="in capitals"),
        pytest.param(b"localhost:4566", IN_A_NETWORK, False, id="its own beside it"),
        pytest.param(b"evil.example:4566", IN_A_NETWORK, True, id="another one"),
    ],
)
def test_a_further_host_is_answered_only_where_it_was_given(host: bytes, hosts: frozenset[str], refused: bool) -> None:
    scope = {"type": "http", "method": "GET", "path": "/hpe-models/key", "headers": [(b"host", host)]}
    assert bool(refusal(scope, hosts)) == refused
