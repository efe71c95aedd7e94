"""The tables that both documents share hold nothing that neither document uses."""

from __future__ import annotations

from server.web.api.operations import OPERATIONS
from server.web.docs.asyncapi import asyncapi
from server.web.docs.openapi import DOCUMENTED, openapi
from server.web.docs.schemas import BODIES, FIELDS, HEADERS, MEDIA, PARAMETERS, SECURITY


def test_field_rules_name_existing_fields() -> None:
    """A rule of FIELDS whose field no schema has is a leftover."""
    known = {
        (name, field)
        for document in (openapi(), asyncapi())
        for name, schema in document["components"]["schemas"].items()
        for field in schema.get("properties", ())
    }
    fields = {field for _, field in known}
    for rule in FIELDS:
        name, _, field = rule.rpartition(".")
        assert (name, field) in known if name else field in fields, rule


def test_tables_hold_what_rows_name() -> None:
    """Rows name only known parameters, forms, headers and so on, and all of them."""
    answers = [answer for row in DOCUMENTED for answer in row.answers.values()]
    assert {name for row in OPERATIONS for name in row.parameters} == set(PARAMETERS)
    assert {row.form for row in OPERATIONS if row.form} == set(BODIES)
    assert {name for row in OPERATIONS for name in row.security if name} == set(SECURITY)
    assert {answer.media for answer in answers if answer.media} == set(MEDIA)
    named = {name for answer in answers for name in answer.headers}
    named |= {name for row in OPERATIONS for name in row.error_headers}
    assert named | {"X-Request-ID", "Retry-After", "Accept", "Accept-Encoding"} == set(HEADERS)
