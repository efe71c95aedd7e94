"""Every setting of the product: one frozen :class:`Config`, read from ``TRYON_*``.

A field's name in capitals with ``TRYON_`` before it is its variable. A malformed or
unknown setting stops the start with one line that names it (:class:`ConfigError`).
``.env.example`` and ``docs/settings.md`` are generated from the same table (``tryon
settings --env`` and ``--markdown``).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dotenv import dotenv_values

from server.config import parsing, secret_file
from server.config.database_url import sqlite_url
from server.config.parsing import UploadRate


class ConfigError(Exception):
    """A malformed, unknown or missing setting, in one line that names it."""


def setting(
    default: Any,
    meaning: str,
    parse: Callable[[str], Any] = parsing.text,
    *,
    unit: str = "",
    shown: str | None = None,
    may_be_empty: bool = True,
) -> Any:
    """Return one row of the table.

    ``shown``: the default as the documentation writes it. ``may_be_empty``: whether an
    empty text counts as unset; else it is malformed.
    """
    return field(
        default=default,
        metadata={"meaning": meaning, "parse": parse, "unit": unit, "shown": shown, "may_be_empty": may_be_empty},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a process. Build it with :meth:`load`; tests may construct it."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8000, "Port to listen on.", parsing.integer(0, 65535))
    data_dir: Path = setting(
        Path("data"),
        "Folder of the SQLite file, uploads, the embedded Valkey's append-only file and the generated secret.",
        parsing.path,
        shown="./data",
    )
    database_url: str | None = setting(
        None,
        "Database: sqlite:///… or postgresql://…, with libpq's sslmode and the like; pgbouncer=true behind "
        "PgBouncer in transaction mode.",
        parsing.database_url,
        shown="SQLite in the data folder",
    )
    redis_url: str | None = setting(
        None,
        "Redis or Valkey: redis://, rediss:// or unix://.",
        parsing.redis_url,
        shown="the embedded Valkey of `tryon up`",
    )
    secret_keys: tuple[str, ...] = setting(
        (),
        "Signs tickets and links; several, separated by commas: the first signs, all verify. "
        "Must be set when more than one machine serves.",
        parsing.secret_keys,
        shown="generated in the data folder",
        may_be_empty=False,
    )
    web_processes: int = setting(
        1, "Web processes that `tryon up` starts; they share the port.", parsing.integer(1, 64)
    )
    worker_processes: int = setting(1, "Worker processes that `tryon up` starts.", parsing.integer(1, 64))
    processor: str = setting(
        "mock",
        "What makes the picture: the name of a built-in processor, an entry point of tryon.processors, or "
        "package.module:Class; several, comma-separated, fall over in that order.",
        parsing.names,
    )
    processor_options: str | None = setting(
        None,
        "Options of the processor: JSON, or the path of a TOML file; with several processors, a table for each by its name.",
        shown="none",
    )
    processor_cpu_seconds: float | None = setting(
        600.0,
        "CPU time that one session may take, all threads together; or off.",
        parsing.or_off(parsing.seconds(1)),
        unit="seconds",
    )
    processor_memory_bytes: int | None = setting(
        4 * 2**30,
        "Memory (RSS) that the process of one session may have, a model's weights included; or off.",
        parsing.or_off(parsing.integer(16 * 2**20, 2**50)),
        unit="bytes",
    )
    mock_seconds: float = setting(3.0, "How long the mock works.", parsing.seconds(0, 3600), unit="seconds")
    mock_failure_rate: float = setting(0.1, "Share of sessions that the mock lets fail.", parsing.number(float, 0, 1))
    mock_seed: int | None = setting(None, "Makes the mock's failures repeatable.", parsing.integer(0), shown="unset")
    webhook_url: str | None = setting(
        None, "Address that is called when a session ends: docs/webhooks.md.", parsing.webhook_url, shown="none"
    )
    webhook_secrets: tuple[bytes, ...] = setting(
        (),
        "Signs webhooks: whsec_ and the base64 of 24 to 64 bytes; several, separated by commas, sign all.",
        parsing.webhook_secrets,
        shown="none",
    )
    webhook_hosts: tuple[str, ...] = setting(
        (),
        "Hosts that a session may name for its own webhook: shop.example, *.shop.example, shop.example:8443.",
        parsing.webhook_hosts,
        shown="none",
    )
    webhook_private: bool = setting(
        False, "Whether webhooks may go to private addresses, and by http: yes or no.", parsing.yes_or_no, shown="no"
    )
    upload_rate: UploadRate | None = setting(
        UploadRate(10, 60),
        "Uploads per client address, in any window of that length; or off.",
        parsing.rate,
        shown="10/minute",
    )
    hosts: tuple[str, ...] = setting(
        (),
        "Names that are served, as in Host: shop.example, *.shop.example, shop.example:8443, [::1], or * for any.",
        parsing.hosts,
        shown="any when listening on loopback, else IP addresses and this machine's own name",
    )
    private_paths: str | None = setting(
        None,
        "Clients that may read /metrics and /api/health: open (any client), loopback (programs of this machine, "
        "not through a proxy), or a token that is sent as Authorization: Bearer.",
        parsing.private_paths,
        shown="open when listening on loopback, else loopback",
    )
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = setting(
        (),
        "Networks whose X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host count.",
        parsing.networks,
        shown="none",
    )
    origins: tuple[str, ...] = setting(
        (),
        "Other origins that may call and connect (CORS and WebSocket Origin), also those of apps (capacitor://localhost). "
        "When set, exactly these and the same origin.",
        parsing.origins,
        shown="same origin; localhost at any port",
    )
    start_check: bool = setting(
        True,
        "Whether a process that cannot use the database or Redis at its start ends, with one line that says why: yes or no. "
        "With no it starts, and goes on once they are back.",
        parsing.yes_or_no,
        shown="yes",
    )
    demo: bool = setting(
        False,
        "Whether the owner of a session may crash its worker, so that people can watch the recovery: yes or no.",
        parsing.yes_or_no,
        shown="no",
    )
    crash_rate: UploadRate | None = setting(
        UploadRate(3, 60),
        "Crashes that a client address may ask for in demo mode, in any window of that length; or off.",
        parsing.rate,
        shown="3/minute",
    )
    retention_seconds: float = setting(
        86400.0, "How long a session and its photos live.", parsing.seconds(1), unit="seconds"
    )
    cleanup_seconds: float = setting(
        3600.0, "How often orphaned files and rows are looked for.", parsing.seconds(0.1), unit="seconds"
    )
    lease_seconds: float = setting(
        12.0, "How long a claim holds without a heartbeat.", parsing.seconds(0.1, 3600), unit="seconds"
    )
    max_attempts: int = setting(3, "Burnt attempts after which a session fails.", parsing.integer(1, 100))
    deadline_seconds: float = setting(
        600.0, "From creation to the latest end, waiting included.", parsing.seconds(0.1), unit="seconds"
    )
    worker_jobs: int = setting(
        10,
        "Sessions that a worker runs at once, each in a process of its own; 1 for a model on a GPU.",
        parsing.integer(1, 1000),
    )
    drain_seconds: float = setting(
        5.0, "How long a stopping worker lets running sessions end.", parsing.seconds(0), unit="seconds"
    )
    queue_limit: int = setting(1000, "Waiting sessions beyond which uploads are refused.", parsing.integer(1))
    queue_share_per_owner: float | None = setting(
        0.05,
        "Share of TRYON_QUEUE_LIMIT that the waiting sessions of one client token may have; or off.",
        parsing.or_off(parsing.number(float, 0, 1)),
    )
    queue_share_per_address: float | None = setting(
        0.1,
        "Share of TRYON_QUEUE_LIMIT that the waiting sessions of one client address may have; or off.",
        parsing.or_off(parsing.number(float, 0, 1)),
    )
    stored_bytes_per_owner: int | None = setting(
        2 * 2**30,
        "Photos and results of one client token, until they are erased; or off.",
        parsing.or_off(parsing.integer(1, 2**50)),
        unit="bytes",
    )
    stored_bytes_per_address: int | None = setting(
        8 * 2**30,
        "Photos and results of one client address, until they are erased; or off.",
        parsing.or_off(parsing.integer(1, 2**50)),
        unit="bytes",
    )
    ping_seconds: float = setting(
        25.0, "Time between the JSON pings of a socket.", parsing.seconds(0.05, 3600), unit="seconds"
    )
    ticket_seconds: int = setting(900, "Life of a ticket.", parsing.integer(1), unit="seconds")
    link_seconds: int = setting(300, "Life of a signed file link.", parsing.integer(1), unit="seconds")
    image_max_bytes: int = setting(10 * 2**20, "Largest image file.", parsing.integer(1024), unit="bytes")
    body_max_bytes: int = setting(22 * 2**20, "Largest upload body.", parsing.integer(2048), unit="bytes")
    image_min_side: int = setting(64, "Shortest side of an image.", parsing.integer(1), unit="pixels")
    image_max_side: int = setting(8192, "Longest side of an image.", parsing.integer(1, 65535), unit="pixels")
    image_max_pixels: int = setting(40_000_000, "Most pixels of an image.", parsing.integer(1), unit="pixels")
    uploads_per_address: int = setting(32, "Uploads at once per client address.", parsing.integer(1))
    spooled_bytes_per_address: int = setting(
        256 * 2**20,
        "Bytes that the unfinished uploads of a client address may hold.",
        parsing.integer(2048, 2**50),
        unit="bytes",
    )
    spooled_bytes_per_process: int = setting(
        2**30,
        "Bytes that the unfinished uploads to a web process may hold, in memory and in anonymous files.",
        parsing.integer(2048, 2**50),
        unit="bytes",
    )
    sockets_per_address: int = setting(200, "Open sockets per client address.", parsing.integer(1))
    sockets_per_session: int = setting(20, "Open sockets per session.", parsing.integer(1))
    sockets_per_process: int = setting(20000, "Open sockets per web process.", parsing.integer(1))
    connections_per_address: int = setting(
        250, "HTTP connections per address of a peer; those of trusted proxies have no limit.", parsing.integer(1)
    )
    connections_per_process: int | None = setting(
        None,
        "Connections per web process, sockets included.",
        parsing.integer(1),
        shown="the limit of open files less 512",
    )
    socket_seconds: float = setting(
        14400.0,
        "Oldest a socket or stream may get; then it is asked to come back.",
        parsing.seconds(0.1),
        unit="seconds",
    )
    sweep_seconds: float = setting(
        4.0,
        "How often transitions are read from the database, in case Redis lost their news.",
        parsing.seconds(0.05, 60),
        unit="seconds",
    )
    key_prefix: str = setting("tryon:", "Begins every Redis key and channel of the product but the queue's.")
    queue_name: str = setting("tryon:queue", "Name of the arq queue.")
    log_format: str | None = setting(
        None, "text or json.", parsing.choice("text", "json"), shown="text on a terminal, else json"
    )
    log_level: str = setting(
        "info", "debug, info, warning or error.", parsing.choice("debug", "info", "warning", "error")
    )

    def __repr__(self) -> str:
        return f"<Config {self.host}:{self.port} data={self.data_dir}>"  # never the URLs' passwords or the keys

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, *, env_file: Path | None = Path(".env"), **overrides: Any
    ) -> Config:
        """Read ``.env``, then the environment, then ``overrides``; later ones win.

        ``.env`` is that of the working directory. ``TRYON_SECRET_KEY`` is the variable
        of ``secret_keys``. Raises :class:`ConfigError`.
        """
        values: dict[str, str] = {}
        if env_file is not None:
            values |= _of_file(env_file)
        values |= os.environ if environ is None else environ
        found = _parsed(values)
        config = cls(**{**found, **{name: value for name, value in overrides.items() if value is not None}})
        _check_webhooks(config)
        return config

    @property
    def processors(self) -> tuple[str, ...]:
        """Return the names of the processors, the first one first."""
        return tuple(self.processor.split(","))

    @property
    def database(self) -> str:
        """Return the database's URL."""
        return self.database_url or sqlite_url((self.data_dir / "tryon.sqlite3").absolute())

    @property
    def redis(self) -> str:
        """Return the Redis URL: the setting, or that of the stack on this data folder.

        Raises :class:`ConfigError` if neither exists, or the stack's cannot be read.
        """
        if self.redis_url:
            return self.redis_url
        return _noted_address(self.redis_address_file)

    @property
    def redis_address_file(self) -> Path:
        """Return the file in which ``tryon up`` notes the embedded Valkey's address."""
        return self.data_dir / "valkey.address"

    @property
    def uploads_dir(self) -> Path:
        """Return the folder of photos and results."""
        return self.data_dir / "uploads"

    def signing_keys(self) -> tuple[str, ...]:
        """Return the secret keys; generate one (0600) if none are set.

        Raises :class:`ConfigError` if the one in the data folder cannot be used.
        """
        if self.secret_keys:
            return self.secret_keys
        path = self.data_dir / "secret.key"
        try:
            return parsing.secret_keys(secret_file.read_or_make(path))
        except OSError as error:
            raise ConfigError(f"TRYON_SECRET_KEY: cannot use {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"TRYON_SECRET_KEY: cannot use {path}: {error}") from None


SECRET_VARIABLES: Final = frozenset(
    {
        *("TRYON_SECRET_KEY", "TRYON_DATABASE_URL", "TRYON_REDIS_URL", "TRYON_PRIVATE_PATHS"),
        "TRYON_PROCESSOR_OPTIONS",  # may hold an upstream's key
        *("TRYON_WEBHOOK_URL", "TRYON_WEBHOOK_SECRET"),
    }
)


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder if it is missing. Raises :class:`ConfigError`."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"TRYON_DATA_DIR: cannot use {data_dir}: {error.strerror}") from None


def _noted_address(note: Path) -> str:
    try:
        return parsing.redis_url(note.read_text().strip())
    except FileNotFoundError:
        raise ConfigError(
            "TRYON_REDIS_URL is not set and no `tryon up` runs on this data folder; set it, or start `tryon up`"
        ) from None
    except OSError as error:
        raise ConfigError(f"TRYON_DATA_DIR: cannot read {note}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"TRYON_DATA_DIR: {note} holds no address; stop `tryon up` and start it again") from None


def _of_file(env_file: Path) -> dict[str, str]:
    """Return the variables of a ``.env`` file; none if it is missing."""
    try:
        if not stat.S_ISREG(env_file.stat().st_mode):  # a folder: of another program
            return {}
        return {name: text for name, text in dotenv_values(env_file).items() if text is not None}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {env_file.absolute()}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read {env_file.absolute()}: it is not UTF-8") from None


def _parsed(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings among these variables, by field; raise ConfigError."""
    settings = {variable(f): f for f in dataclasses.fields(Config)}
    found: dict[str, Any] = {}
    for name, text in values.items():
        if not name.startswith("TRYON_"):
            continue
        if name not in settings:
            raise ConfigError(f"{name} is not a setting{_did_you_mean(name, settings)}")
        row = settings[name]
        if text.strip() == "" and row.metadata["may_be_empty"]:
            continue
        try:
            found[row.name] = row.metadata["parse"](text.strip())
        except ValueError as error:
            shown = "its value" if name in SECRET_VARIABLES else repr(text)
            raise ConfigError(f"{name}: {error} (found {shown})") from None
    return found


def _check_webhooks(config: Config) -> None:
    """Raise :class:`ConfigError` if the settings of webhooks contradict each other."""
    if (config.webhook_url or config.webhook_hosts) and not config.webhook_secrets:
        raise ConfigError(
            "TRYON_WEBHOOK_SECRET must be set where there are webhooks; `openssl rand -base64 32` makes one"
        )
    if (config.webhook_url or "").startswith("http:") and not config.webhook_private:
        raise ConfigError("TRYON_WEBHOOK_URL: http needs TRYON_WEBHOOK_PRIVATE=yes")


_NAMED: Final = {"secret_keys": "TRYON_SECRET_KEY", "webhook_secrets": "TRYON_WEBHOOK_SECRET"}


def variable(row: dataclasses.Field[Any]) -> str:
    """Return the environment variable of a setting."""
    return _NAMED.get(row.name, f"TRYON_{row.name.upper()}")


def _did_you_mean(name: str, known: Mapping[str, Any]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def default_text(row: dataclasses.Field[Any]) -> str:
    """Return the default as the documentation writes it."""
    return str(row.metadata["shown"] if row.metadata["shown"] is not None else row.default)
