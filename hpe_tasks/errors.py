"""The errors that users of the pipeline see: each names the thing that is wrong and says what to do next."""

from __future__ import annotations

import re

_LONGEST_TEXT = 6000
"""Characters of a message: a dozen failed checks of a preflight, each with its advice, have room in it."""

_LONGEST_WORD = 500
"""Characters of a name or value in it: a path or an address has room in it."""


def shortened(text: str, *, longest: int = _LONGEST_TEXT) -> str:
    """A text with the middle left out where it is longer than anybody reads, and so of each word in it.

    What a message shows of a file, its name or a value in it, is as long as whoever made the file wanted it.
    """
    text = _without_middle(text, longest)
    return re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: _without_middle(word[0], _LONGEST_WORD), text)


def _without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 4
    return f"{text[:head]}…({len(text) - head - tail:,} more)…{text[-tail:]}"


class HpeError(Exception):
    """Base of every error that the pipeline raises on purpose.

    Args:
        message: One sentence that names the file, field or option at fault. What is too long to be read is shortened.
        hint: What the user does next; shown after the message.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        message = shortened(message)
        super().__init__(message)
        self.message = message
        self.hint = shortened(hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default reduction, and Airflow pickles errors between processes.
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[HpeError], message: str, hint: str) -> HpeError:
    return kind(message, hint=hint)


class BadInputError(HpeError):
    """Something that the user gave is wrong: trying again without a change cannot help."""


class ConfigError(BadInputError):
    """The run configuration names an unknown key, an unknown preset or a value out of bounds."""


class DatasetError(BadInputError):
    """The data set is missing, broken, or unfit for the run."""


class CheckpointError(BadInputError):
    """The checkpoint cannot be read or does not fit the architecture that the run names."""


class ArchiveError(BadInputError):
    """An archive is corrupt, truncated, or would write outside its folder or beyond its limits."""


class DigestError(BadInputError):
    """A file's SHA-256 differs from the one that was promised."""


class MissingInputError(BadInputError):
    """A step was started before the step that makes its input."""


class NotApprovedError(BadInputError):
    """A model was to be published although its gate did not pass, or to be served and nobody who has to approved it."""


class BelowFloorError(BadInputError):
    """The checkpoint, before quantization, does not reach what the gate asks of the exported file."""


class AccessError(BadInputError):
    """A server refused the credentials, or the bucket or object does not exist."""


class PreflightError(BadInputError):
    """A run could not end well with what it was given; lists everything that was found before it began."""


class ChannelConflictError(HpeError):
    """The channel was moved by another publisher between reading and writing it."""


class SupersededError(HpeError):
    """Another attempt at the same step of a run has begun: this one, whose worker was given up, must not go on."""


class StorageError(HpeError):
    """A file could not be written here, for example because the disk is full."""


class QuantizationError(HpeError):
    """The model could not be quantized or exported."""


class TrainingError(HpeError):
    """A training stopped because it no longer learned: its loss or gradients were no numbers, or it diverged."""


class TransientError(HpeError):
    """A network failure that a retry may cure: the only errors that the DAG retries."""
