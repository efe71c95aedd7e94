"""Entity tags in ``If-None-Match`` (RFC 9110 section 13.1.2)."""

from __future__ import annotations

from server.web.common.fields import members


def matches(if_none_match: list[str], etag: str) -> bool:
    """Return whether the ETag is among these (weakly: RFC 9110 section 8.8.3.2)."""
    tags = members(if_none_match)
    return tags == ["*"] or etag.removeprefix("W/") in [tag.removeprefix("W/") for tag in tags]
