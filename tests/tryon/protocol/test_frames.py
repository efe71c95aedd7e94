"""The frames as JSON."""

from __future__ import annotations

import json
from typing import get_args

from tryon.protocol.frames import ByeFrame, Frame, encode


def test_bye_always_says_how_to_reconnect() -> None:
    """`retry_after_ms` is null where there is nothing to wait for."""
    assert json.loads(encode(ByeFrame(1000, "completed", reconnect=False))) == {
        "type": "bye",
        "code": 1000,
        "reason": "completed",
        "reconnect": False,
        "retry_after_ms": None,
    }


def test_every_frame_is_named_by_its_type() -> None:
    """The tags are unique, so a client can decide by ``type``."""
    tags = [struct.__struct_config__.tag for struct in get_args(Frame)]
    assert len(tags) == len(set(tags))
    assert all(struct.__struct_config__.tag_field == "type" for struct in get_args(Frame))
