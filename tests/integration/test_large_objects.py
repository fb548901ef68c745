"""Large files go to S3 and come back in pieces, whatever their size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import streamed

from .conftest import S3Bucket

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

SIZE_MB = 500
MOST_MB = 150
"""Ten threads of boto3 hold pieces of 8 MB, whole or in part."""


def test_memory_does_not_grow_with_the_file(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, streamed.__file__, f"s3://{s3_bucket.bucket}/large", str(tmp_path), str(SIZE_MB)],
        env=os.environ | s3_bucket.server.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    print(told)
    assert told["whole"] > SIZE_MB * 0.95
    assert max(told["streamed"].values()) < MOST_MB, told["streamed"]
