"""The function itself: from an invocation's event to its answer, with the model kept and renewed in between."""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.errors import BadInputError, CheckpointError
from hpe_tasks.pose.drawing import draw_poses
from hpe_tasks.serving import responses
from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.events import Request, read_event
from hpe_tasks.serving.images import Jpeg, Pixels, decode_padded, encode_jpeg
from hpe_tasks.serving.pose_finder import FoundPeople, PoseFinder
from hpe_tasks.serving.requests import MAX_BOXES, PoseRequest, read_request
from hpe_tasks.serving.responses import Response
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import ModelSource
from hpe_tasks.serving.stored_images import read_stored_image
from hpe_tasks.serving.telemetry import describe, image_statistics, log, log_invocation
from hpe_tasks.serving.verified_model import VerifiedModel

# An invocation with less time left than this does not look for another model.
_RENEWAL_MS = 10_000
# It keeps so much of its time for its own answer, and waits no longer than this for another model.
_ANSWER_MS = 8_000
_LONGEST_WAIT_MS = 10_000
_WARNING_PAUSE_S = 60.0

Record = dict[str, Any]
"""What the log says of an invocation."""


@frozen
class _Loaded:
    """The model that answers, and what runs it."""

    verified: VerifiedModel
    finder: PoseFinder

    @property
    def identity(self) -> dict[str, str]:
        model = self.verified.model
        return {"name": model.name, "version": model.version, "codec": model.codec}


class PoseService:
    """Answers invocations.

    Args:
        settings: What the environment says.
        source: Where models come from; the first is loaded at once, and its errors are raised here.
        rehearse: Whether the first model is run before this ends. Without, the first request is the first run: what
            is waiting for an answer waits for one run and not for two.
    """

    def __init__(self, settings: ServingSettings, source: ModelSource, *, rehearse: bool = True) -> None:
        started = time.perf_counter()
        self._settings = settings
        self._source = source
        self._loaded = self._prepared(source.load(), rehearse=rehearse)
        self._checked = time.monotonic()
        self._warned = -_WARNING_PAUSE_S
        self._renewing = threading.Lock()
        # Kept for the first invocation, whose metrics say that it was a cold start.
        self._load_ms: float | None = _ms_since(started)

    @property
    def served(self) -> VerifiedModel:
        """The model that answers now."""
        return self._loaded.verified

    @property
    def channel(self) -> dict[str, Any] | None:
        """What is known of the channel that is followed, and what of it is refused; None where none is."""
        return self._source.channel

    def restored(self) -> None:
        """Lambda restored the function from a snapshot, as old as the function's version: a channel may have moved."""
        self._checked = float("-inf")
        self._load_ms = None

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Answer one invocation: API Gateway (v1, v2), a function URL, or a direct invocation; never raises."""
        started = time.perf_counter()
        self._renew(context)
        loaded = self._loaded
        record: Record = {
            "request_id": getattr(context, "aws_request_id", None) or uuid.uuid4().hex,
            "function": getattr(context, "function_name", None) or "local",
            "function_version": getattr(context, "function_version", None) or "local",
            "model": loaded.identity["name"],
            "model_version": loaded.identity["version"],
        }
        response = self._answer(event, loaded, record, started)
        status = record["status"] = response["statusCode"]
        if record.get("method") not in ("GET", "OPTIONS"):
            record["total_ms"] = _ms_since(started)
            record |= {"client_errors": int(400 <= status < 500), "server_errors": int(status >= 500)}
        load_ms, self._load_ms = self._load_ms, None
        record |= {"cold_start": load_ms is not None, **({} if load_ms is None else {"load_ms": load_ms})}
        log_invocation(self._settings.metrics_namespace, record)
        return response

    def _answer(self, event: Any, loaded: _Loaded, record: Record, started: float) -> Response:
        headers: dict[str, str] = {}
        try:
            request = read_event(event, self._settings.max_image_bytes)
            record |= {"form": request.form, "method": request.method}
            headers = responses.cors_headers(request.headers.get("origin"), self._settings.cors_origins)
            if request.method == "OPTIONS":
                return responses.preflight_response(headers)
            if request.method == "GET":
                return responses.json_response(200, self._about(loaded), headers)
            if request.method == "POST":
                return self._poses(request, loaded, record, headers, started)
            record["reason"] = "The method is not accepted."
            return responses.error_response(405, "The method is not accepted.", record["request_id"], headers)
        except RequestError as error:
            record["reason"] = error.message
            return responses.error_response(error.status, str(error), record["request_id"], headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log gets the rest
            record |= describe(error)
            message = "The function failed; its log says why under this request id."
            return responses.error_response(500, message, record["request_id"], headers)

    def _poses(
        self, request: Request, loaded: _Loaded, record: Record, headers: Mapping[str, str], started: float
    ) -> Response:
        settings = self._settings
        read_stored = partial(
            read_stored_image, prefixes=settings.image_prefixes, max_bytes=settings.max_stored_image_bytes
        )
        asked = read_request(request, settings.max_image_bytes, read_stored)
        as_jpeg = responses.prefers_jpeg(request.headers.get("accept", ""))
        if as_jpeg and not asked.draw:
            raise RequestError(422, "draw is false, but Accept asks for a picture.", hint="Drop one of the two.")
        record["image_bytes"] = len(asked.image)
        clock = time.perf_counter()
        image = decode_padded(asked.image, settings.max_pixels)
        timings = {"decode_image": _ms_since(clock)}
        record |= {"width": image.shape[1], "height": image.shape[0], **image_statistics(image)}
        found = _find(loaded.finder, image, asked.boxes, timings)
        document: dict[str, Any] = {
            "model": loaded.identity,
            "image": {"width": image.shape[1], "height": image.shape[0]},
            "people": responses.people_document(found, loaded.verified.model.skeleton),
            "request_id": record["request_id"],
        }
        record["people"] = len(found.scores)
        if len(found.scores):
            record["mean_score"] = round(float(found.scores.mean()), 4)
            record["top_score"] = round(float(found.scores.max()), 4)
        clock = time.perf_counter()
        room = responses.room_for_picture(document)
        picture = self._picture(image, asked, found, loaded, room) if asked.draw else None
        timings["draw"] = _ms_since(clock)
        record |= {f"{stage}_ms": milliseconds for stage, milliseconds in timings.items()}
        if as_jpeg and picture is not None:
            return responses.jpeg_response(picture.data, {**headers, "X-Request-Id": record["request_id"]})
        encoded = None
        if picture is not None:
            document["hpe"], encoded = "", base64.b64encode(picture.data).decode("ascii")
        if asked.draw:
            document |= _note(picture, image)
        document["timings_ms"] = {**timings, "total": _ms_since(started)}
        return responses.json_response(200, document, headers, encoded)

    def _picture(
        self, image: Pixels, asked: PoseRequest, found: FoundPeople, loaded: _Loaded, max_bytes: int
    ) -> Jpeg | None:
        threshold = self._settings.threshold if asked.threshold is None else asked.threshold
        drawn = image
        if len(found.scores):
            drawn = draw_poses(
                image,
                found.joints,
                found.joint_scores,
                loaded.verified.model.skeleton,
                threshold=threshold,
                boxes=found.boxes,
            )
        return encode_jpeg(drawn, max_bytes)

    def _about(self, loaded: _Loaded) -> dict[str, Any]:
        settings = self._settings
        limits = {
            "image_bytes": settings.max_image_bytes,
            "stored_image_bytes": settings.max_stored_image_bytes,
            "pixels": settings.max_pixels,
            "boxes": MAX_BOXES,
        }
        return {
            "status": "ok",
            "model": loaded.identity,
            "joints": loaded.verified.model.skeleton.joints,
            "limits": limits,
            **({} if (channel := self.channel) is None else {"channel": channel}),
        }

    def _prepared(self, verified: VerifiedModel, *, rehearse: bool) -> _Loaded:
        """Load a model and, as a rehearsal, run all that answers a request: the first run of anything is slow."""
        clock = time.perf_counter()
        loaded = _Loaded(
            verified,
            PoseFinder(verified.model, verified.file, self._settings.threads, optimized=verified.network.optimized),
        )
        if rehearse:
            width, height = verified.model.input_sizes[0]
            black = np.zeros((height, width, 4), np.uint8)
            found, _ = loaded.finder.find(black, None)
            self._picture(black, PoseRequest(b"", None, True, None), found, loaded, responses.MAX_RESPONSE_BYTES)
        log(
            "INFO",
            "model loaded",
            model=verified.model.name,
            model_version=verified.model.version,
            origin=verified.origin,
            manifest_sha256=verified.manifest_sha256,
            load_ms=_ms_since(clock),
        )
        return loaded

    def _renew(self, context: Any) -> None:
        """Look for another model if it is time to, and wait for it as long as this invocation can."""
        if time.monotonic() - self._checked < self._settings.refresh_s:
            return
        remaining_ms = _remaining_ms(context)
        if remaining_ms < _RENEWAL_MS:
            self._warn("The function's timeout leaves an invocation too little time to look for another model.")
            return
        if self._renewing.locked():
            self._warn("An earlier renewal has not come to its end.")
            return
        # Of its own, because neither a name server nor a server that sends byte by byte can be told when to end.
        renewal = threading.Thread(target=self._change_model, name="renewal", daemon=True)
        renewal.start()
        renewal.join(min(remaining_ms - _ANSWER_MS, _LONGEST_WAIT_MS) / 1000)
        if renewal.is_alive():
            self._warn("It takes longer than this invocation can wait.")

    def _warn(self, reason: str) -> None:
        """Say that the model is not renewed yet, and why; not with every invocation."""
        if time.monotonic() - self._warned < _WARNING_PAUSE_S:
            return
        self._warned = time.monotonic()
        version = self._loaded.identity["version"]
        log("WARNING", "The model is not renewed yet.", reason=reason, model_version=version)

    def _change_model(self) -> None:
        """Change to another model if the source has one, and only when it is ready to answer."""
        if not self._renewing.acquire(blocking=False):
            return
        try:
            self._checked = time.monotonic()
            newer = self._source.newer(self._loaded.verified)
            if newer is not None:
                self._loaded = self._prepared(newer, rehearse=True)
        except Exception as error:  # noqa: BLE001 - the model that is loaded still answers
            log("ERROR", "The model is not renewed.", model_version=self._loaded.identity["version"], **describe(error))
        finally:
            self._renewing.release()


def _find(
    finder: PoseFinder, image: Pixels, boxes: npt.NDArray[np.float64] | None, timings: dict[str, float]
) -> FoundPeople:
    try:
        found, stages = finder.find(image, boxes)
    except CheckpointError:
        raise  # the model's fault, not the sender's
    except BadInputError as error:
        raise RequestError(422, error.message, hint=error.hint) from error
    timings["preprocess"] = round(stages.preprocess_ms, 3)
    timings["network"] = round(stages.network_ms, 3)
    timings["decode_people"] = round(stages.decode_ms, 3)
    return found


def _note(picture: Jpeg | None, image: Pixels) -> dict[str, str]:
    """What to say of a picture that is not the image's size."""
    if picture is None:
        return {"note": "The picture is left out: it would exceed the size of answers that Lambda accepts."}
    if picture.size != (image.shape[1], image.shape[0]):
        width, height = picture.size
        return {"note": f"The picture is reduced to {width}×{height}; coordinates are those of the image."}
    return {}


def _remaining_ms(context: Any) -> float:
    """Time that the invocation has left; without limit outside Lambda."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return float("inf") if remaining is None else float(remaining())


def _ms_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 3)
