"""Fixtures of the unit tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.requirements import folder_named_by


@pytest.fixture(scope="module", autouse=True)
def no_aws_account() -> Iterator[None]:
    """Hide whatever S3 server and credentials this machine, its user or an earlier module has set up.

    moto answers only for addresses of AWS, so a server that the environment names would be asked instead of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # The session that all clients of a process share keeps the credentials that it has once found.
        patch.setattr("boto3.DEFAULT_SESSION", None)
        yield


@pytest.fixture(scope="session")
def specs() -> Path:
    """Folder with `*.state_dict.json`: names and shapes of published checkpoints."""
    return folder_named_by("HPE_TEST_SPECS", "the *.state_dict.json files")
