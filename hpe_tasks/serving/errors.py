"""What is wrong with a request, as its sender is told."""

from __future__ import annotations

from hpe_tasks.errors import BadInputError


class RequestError(BadInputError):
    """A request that cannot be answered; becomes the answer's status and message.

    Messages are logged, so they name fields and sizes but repeat none of the request's values. Hints are not.

    Args:
        status: HTTP status: 400 (malformed), 405, 413 (too large), 415 (no image) or 422 (cannot be used).
        message: One sentence that names the field at fault.
        hint: What the sender does next.
    """

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.status, self.message, self.hint)


def _rebuild(status: int, message: str, hint: str) -> RequestError:
    return RequestError(status, message, hint=hint)


def too_large(what: str, max_bytes: int) -> RequestError:
    """The refusal of an image, body or object that has more bytes than are accepted."""
    return RequestError(413, f"The {what} is larger than {max_bytes / 1e6:.4g} MB.", hint="Send a smaller image.")
