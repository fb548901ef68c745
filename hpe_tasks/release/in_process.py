"""The Lambda function's own code in this process: without its package, its Python and the emulator."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpe_tasks.contract.names import MANIFEST, SIGNATURE
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import MODEL, PackageSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Context:
    """What the function asks of its invocation."""

    aws_request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    function_name: str = "in-process"
    function_version: str = "local"

    def get_remaining_time_in_millis(self) -> int:
        """As much as Lambda gives at first."""
        return 30_000


class FunctionInProcess:
    """The function with a model in its package.

    Args:
        folder: Where the package's model is put; new.
        manifest: The manifest's bytes.
        model: The file that is served.
        signature: Content of the manifest's signature file; None for a manifest that is not signed.
        public_key: Ed25519 public key, 32 bytes, that the function demands a signature of; None for none.

    Raises:
        DigestError: The function does not start: manifest, signature and model do not belong together.
    """

    def __init__(
        self,
        folder: Path,
        manifest: bytes,
        model: Path,
        *,
        signature: bytes | None = None,
        public_key: bytes | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(manifest)
        shutil.copyfile(model, folder / MODEL)
        if signature is not None:
            (folder / SIGNATURE).write_bytes(signature)
        settings = ServingSettings.from_environment({}, folder)
        with _printed_to_log():
            self._service = PoseService(settings, PackageSource(folder, () if public_key is None else (public_key,)))

    def invoke(self, event: dict[str, Any]) -> Mapping[str, Any]:
        """What the function answers to an event."""
        with _printed_to_log():
            return self._service(event, _Context())


@contextlib.contextmanager
def _printed_to_log() -> Iterator[None]:
    """Take the lines of the function's log, which it prints, into ours."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield
    log.debug("%s", printed.getvalue().strip())
