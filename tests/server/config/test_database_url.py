"""URLs of databases as people have them: mapped word by word, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config.database_url import DatabaseUrl, parse_database_url, sqlite_url
from server.config.settings import Config, ConfigError

PG = "postgresql+asyncpg://tryon:se%2Fcret@db.internal/tryon"


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("", {}),
        ("?sslmode=require", {"driver": {"sslmode": "require"}}),
        ("?ssl=verify-full", {"driver": {"sslmode": "verify-full"}}),
        (
            "?sslmode=verify-full&sslrootcert=/etc/ca%20one.pem&sslcert=c&sslkey=k",
            {"driver": {"sslmode": "verify-full", "sslrootcert": "/etc/ca one.pem", "sslcert": "c", "sslkey": "k"}},
        ),
        ("?connect_timeout=10", {"connect_seconds": 10}),
        ("?application_name=try+on", {"server": {"application_name": "try on"}}),
        ("?options=-c%20search_path%3Dshop", {"server": {"options": "-c search_path=shop"}}),
        ("?target_session_attrs=read-write", {}),
        ("?client_encoding=utf8&gssencmode=prefer&channel_binding=prefer&sslsni=1", {}),
        ("?pgbouncer=true", {"pooled": True}),
        ("?pgbouncer=false", {}),
    ],
)
def test_words_of_libpq_are_mapped(query: str, parts: dict[str, object]) -> None:
    """Words that ask for what is done anyway are dropped."""
    assert parse_database_url(PG + query) == DatabaseUrl(sqlite=False, address=PG, **parts)  # type: ignore[arg-type]


def test_words_for_driver_are_a_query_of_its_own() -> None:
    """They are escaped again."""
    assert parse_database_url(PG).driver_url is None
    url = parse_database_url(f"{PG}?sslmode=require&sslrootcert=/a%20b")
    assert url.driver_url == "postgresql://?sslmode=require&sslrootcert=%2Fa+b"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u@h:5433/d?sslmode=prefer", "postgresql+asyncpg://u@h:5433/d"),
        (
            "postgresql:///d?host=/run/postgresql&port=5433",
            "postgresql+asyncpg:///d?host=%2Frun%2Fpostgresql&port=5433",
        ),
        ("postgresql://u@h:1,i:2/d", "postgresql+asyncpg://u@h:1,i:2/d"),
    ],
)
def test_address_keeps_its_place(url: str, address: str) -> None:
    """The schemes that hosts of databases print mean the same."""
    assert parse_database_url(url).address == address


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"{PG}?keepalives=1", "the parameter 'keepalives' is not supported"),
        (f"{PG}?sslmode=on", "sslmode must be disable or allow"),
        (f"{PG}?channel_binding=require", "channel_binding must be disable or prefer"),
        (f"{PG}?target_session_attrs=standby", "target_session_attrs must be primary or read-write"),
        (f"{PG}?connect_timeout=soon", "connect_timeout must be a number of seconds"),
        (f"{PG}?pgbouncer=1", "pgbouncer must be true or false"),
        ("postgresql://u:p:x@h:port/d", "the port is malformed"),
        ("postgresql+psycopg2://h/d", "must begin with"),
        ("sqlite:///a?b", "a ? in a path is written %3F"),
        ("sqlite://a/b", "follows three slashes"),
        ("sqlite:///a%00b", "holds no NUL"),
    ],
)
def test_other_words_stop_the_start_in_one_line(url: str, told: str) -> None:
    """The line names the word, and never the URL's password."""
    with pytest.raises(ConfigError, match=r"^TRYON_DATABASE_URL: ") as refused:
        Config.load({"TRYON_DATABASE_URL": url}, env_file=None)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a b", "what?", "50%", "%41", "#1", "a&b=c", "ü", "a:b@c", "it's"])
def test_sqlite_path_holds_any_character(name: str) -> None:
    """The data folder's name, and an escaped path in the setting, are kept."""
    path = Path("/data") / name / "tryon.sqlite3"
    assert parse_database_url(sqlite_url(path)) == DatabaseUrl(sqlite=True, path=str(path))
    assert parse_database_url(Config(data_dir=path.parent).database).path == str(path)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite+aiosqlite:////data/x y#1.db", "/data/x y#1.db"),
        ("sqlite+aiosqlite:///x.db", "x.db"),
        ("sqlite+aiosqlite:////data/100%/x.db", "/data/100%/x.db"),
        ("sqlite+aiosqlite://", None),
        ("sqlite+aiosqlite:///:memory:", None),
    ],
)
def test_sqlite_path_may_stand_unescaped(url: str, path: str | None) -> None:
    """Only ``?``, and ``%`` before two hexadecimal digits, have to be escaped."""
    assert parse_database_url(url).path == path
