from __future__ import annotations

import pickle

import pytest

from hpe_tasks.errors import CheckpointError, DatasetError, HpeError, shortened
from hpe_tasks.pipeline.runs import failure_message

LONG = 8_000_000


@pytest.mark.parametrize(
    "text",
    ["", "A file.", "/data/" + "folder/" * 60 + "w.pth cannot be read.", "word " * 1100, "line\n" * 1000],
    ids=["empty", "sentence", "path", "many words", "many lines"],
)
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert shortened(text) == text
    error = HpeError(text, hint=text)
    assert (error.message, error.hint) == (text, text)


@pytest.mark.parametrize(
    "name", ["n" * LONG, "n m " * (LONG // 4), "é" * LONG], ids=["one word", "with spaces", "two bytes each"]
)
def test_a_name_in_a_message_is_cut_and_the_rest_of_the_sentence_is_not(name: str) -> None:
    error = CheckpointError(f"weights.tgz: the member {name} is a link.", hint=f"Remove {name} from it.")
    for text in (error.message, error.hint, str(error), str(error.args[0]), failure_message(error)):
        assert len(text) < 13_000
    assert error.message.startswith("weights.tgz: the member")
    assert error.message.endswith("is a link.")
    assert "more)…" in error.message
    assert len(pickle.dumps(error)) < 20_000


def test_one_long_name_takes_no_room_from_those_beside_it() -> None:
    error = DatasetError("No images: a.jpg, " + "b" * 3000 + ", c.jpg, " + "d" * 2000 + ", e.jpg.")
    assert all(f"{name}.jpg" in error.message for name in "ace")
    assert len(error.message) < 1200


def test_what_is_kept_of_an_error_that_was_not_foreseen_is_cut_as_well() -> None:
    message = failure_message(KeyError("k" * LONG))
    assert message.startswith("KeyError: 'kkk")
    assert len(message) < 1000
    assert len(failure_message("k" * LONG)) < 1000
