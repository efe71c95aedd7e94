"""The frames as JSON."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from tryon.protocol.close_codes import CLOSE_CODES, CloseCode, Closing, Reconnect, may_reconnect
from tryon.protocol.frames import ByeFrame, Frame, bye, encode


def test_bye_always_says_how_to_reconnect() -> None:
    """`retry_after_ms` is null where there is nothing to wait for."""
    assert json.loads(encode(ByeFrame(1000, "completed", reconnect=False))) == {
        "type": "bye",
        "code": 1000,
        "reason": "completed",
        "reconnect": False,
        "retry_after_ms": None,
    }


@pytest.mark.parametrize("row", CLOSE_CODES, ids=lambda row: row.code.name)
def test_bye_follows_the_table(row: Closing) -> None:
    """The table decides about reconnecting; the caller gives the reason."""
    frame = bye(row.code, "a reason", retry_after_ms=5)
    assert frame == ByeFrame(row.code, "a reason", reconnect=row.reconnect is not Reconnect.NO, retry_after_ms=5)
    if row.code >= 4000:
        assert frame.reconnect == may_reconnect(row.code)


def test_bye_takes_only_reason_of_its_code() -> None:
    """A code with several reasons, or none, needs one from the caller."""
    assert bye(CloseCode.MISUSE) == ByeFrame(4500, "misuse", reconnect=False)
    assert bye(CloseCode.TOO_SLOW) == ByeFrame(4002, "too_slow", reconnect=True)
    for code in (CloseCode.DONE, CloseCode.RESYNC, 4999):
        with pytest.raises(ValueError, match=r"unpack|not a valid"):
            bye(code)


def test_every_frame_is_named_by_its_type() -> None:
    """The tags are unique, so a client can decide by ``type``."""
    tags = [struct.__struct_config__.tag for struct in get_args(Frame)]
    assert len(tags) == len(set(tags))
    assert all(struct.__struct_config__.tag_field == "type" for struct in get_args(Frame))
