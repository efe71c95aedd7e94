"""The examples belong to answers that the rows have, and to all frames."""

from __future__ import annotations

import msgspec

from server.web.api.operations import OPERATIONS
from server.web.docs.examples import ANSWERS, CLIENT_MESSAGES, FRAMES, plain


def test_examples_belong_to_answers() -> None:
    """Each example decodes as the struct of the row's answer that it stands for."""
    bodies = {(row.name, status): answer.body for row in OPERATIONS for status, answer in row.answers.items()}
    for key, examples in ANSWERS.items():
        body = bodies[key]
        assert body is not None, key
        assert examples, key
        for example in examples.values():
            assert plain(msgspec.convert(example, body)) == example


def test_frame_examples_carry_their_tag() -> None:
    """Each frame's example is that frame."""
    for struct, example in (FRAMES | CLIENT_MESSAGES).items():
        assert isinstance(example, struct)
        assert plain(example)["type"] == struct.__struct_config__.tag  # type: ignore[attr-defined]  # every struct has it
