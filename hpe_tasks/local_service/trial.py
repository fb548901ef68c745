"""One picture, shown to the function with a version from a folder, in whatever process this is called in.

The pages of Airflow let a process of its own do it, with bounds of memory and time: what people upload is read here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpe_tasks.errors import HpeError
from hpe_tasks.local_service.events import Context, PageRequest, function_url_event, response_of
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import open_source

PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
"""What is taken, by how files begin."""


def find_people(picture: str, *, model: str, answer: str) -> None:
    """Ask the function for the people in a picture.

    Args:
        picture: A JPEG, PNG or WebP file.
        model: Folder with manifest.json and model.onnx, as a package has it.
        answer: File that takes `{"status": …, "body": …}`: what the function answers to `POST /`, or status 0 and the
            reason where it does not start.
    """
    Path(answer).write_text(json.dumps(_ask(Path(picture).read_bytes(), model)), encoding="utf-8")


def _ask(picture: bytes, model: str) -> dict[str, Any]:
    try:
        settings = ServingSettings.from_environment({"HPE_MODEL_DIR": model}, Path(model))
        function = PoseService(settings, open_source(settings), rehearse=False)
    except HpeError as error:
        return {"status": 0, "body": {"error": {"message": str(error)}}}
    kind = next((kind for start, kind in PICTURES.items() if picture.startswith(start)), "application/octet-stream")
    headers = (("content-type", kind), ("accept", "application/json"))
    request = PageRequest("POST", "/", headers, picture, "127.0.0.1")
    context = Context()
    response = response_of(function(function_url_event(request, context.aws_request_id), context))
    return {"status": response.status, "body": json.loads(response.body)}
