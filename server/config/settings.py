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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from server.config import parsing
from server.config.contradictions import find_contradiction
from server.config.database_url import sqlite_url
from server.config.errors import ConfigError
from server.config.parsing import UploadRate
from server.config.rows import setting
from server.config.sources import generated_keys, noted_address, variables_of
from server.config.storage_settings import StorageSettings
from server.config.users import UserSettings, find_fault

__all__ = ["SECRET_VARIABLES", "Config", "ConfigError", "default_text", "table", "variable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(StorageSettings, UserSettings):
    """The settings of a process. Build it with :meth:`load`; tests may construct it."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(
        8000,
        "Port to listen on. Without it PORT counts, which hosting platforms set.",
        parsing.integer(0, 65535),
    )
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
        "Redis or Valkey: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://, docs/redis.md.",
        parsing.redis_url,
        shown="the embedded Valkey of `tryon up`",
    )
    queue_redis_url: str | None = setting(
        None,
        "Redis of the queue, if it is another one: as TRYON_REDIS_URL, but no cluster.",
        parsing.queue_redis_url,
        shown="TRYON_REDIS_URL",
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
    worker_metrics_port: int | None = setting(
        None,
        "Port of TRYON_HOST on which workers that were started alone serve /metrics, for TRYON_PRIVATE_PATHS, and "
        "/api/health/live; or off. "
        "The metrics of `tryon up`'s workers are in the web processes' /metrics.",
        parsing.or_off(parsing.integer(1, 65535)),
        shown="off",
    )
    usage_prices: tuple[tuple[str, float], ...] = setting(
        (),
        "US dollars for a unit of what processors say that they use, for tryon_cost_usd: gpu_seconds=0.0008, or "
        "cog:credits=0.04 for one processor; separated by commas.",
        parsing.prices,
        shown="none",
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
    ping_seconds: float = setting(
        25.0, "Time between the JSON pings of a socket.", parsing.seconds(0.05, 3600), unit="seconds"
    )
    ticket_seconds: int = setting(900, "Life of a ticket.", parsing.integer(1), unit="seconds")
    link_seconds: int = setting(300, "Life of a signed file link.", parsing.integer(1), unit="seconds")
    socket_seconds: float = setting(
        14400.0,
        "Oldest a socket or stream may get; then it is asked to come back.",
        parsing.seconds(0.1),
        unit="seconds",
    )
    sweep_seconds: float = setting(
        3.0,
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
        of ``secret_keys``. Without ``TRYON_PORT``, ``PORT`` is the port. Raises
        :class:`ConfigError`.
        """
        values: dict[str, str] = {}
        if env_file is not None:
            values |= variables_of(env_file)
        values |= os.environ if environ is None else environ
        found = _platform_port(values) | _parsed(values)
        config = cls(**{**found, **{name: value for name, value in overrides.items() if value is not None}})
        if fault := find_fault(config):
            raise ConfigError(fault)
        if contradiction := find_contradiction(config):
            raise ConfigError(contradiction)
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
        return noted_address(self.redis_address_file)

    @property
    def queue_redis(self) -> str:
        """Return the URL of the queue's Redis: the other one unless set."""
        return self.queue_redis_url or self.redis

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
        return self.secret_keys or generated_keys(self.data_dir / "secret.key")


SECRET_VARIABLES: Final = frozenset(
    {
        *("TRYON_SECRET_KEY", "TRYON_DATABASE_URL", "TRYON_REDIS_URL", "TRYON_QUEUE_REDIS_URL"),
        *("TRYON_PRIVATE_PATHS", "TRYON_OPS_TOKEN"),
        "TRYON_PROCESSOR_OPTIONS",  # may hold an upstream's key
        "TRYON_STORAGE_URL",  # holds no key, and a mistake may have put one there
        *("TRYON_WEBHOOK_URL", "TRYON_WEBHOOK_SECRET", "TRYON_OWNER_KEY", "TRYON_USAGE_WEBHOOK_URL"),
        *("TRYON_TRACES_URL", "TRYON_TRACES_HEADERS", "TRYON_SENTRY_DSN"),  # a URL may hold a key
        *("TRYON_JWT_ISSUER", "TRYON_JWT_JWKS_URL"),
    }
)


def _platform_port(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the port in ``PORT``, where one is; raise ConfigError.

    Railway, Render, Cloud Run and Heroku choose the port and pass it so.
    """
    text = values.get("PORT", "").strip()
    if not text or values.get("TRYON_PORT", "").strip():
        return {}
    try:
        return {"port": parsing.integer(0, 65535)(text)}
    except ValueError as error:
        raise ConfigError(f"PORT: {error} (found {text!r}); TRYON_PORT would win over it") from None


def _parsed(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings among these variables, by field; raise ConfigError."""
    settings = {variable(row): row for row in table()}
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


_NAMED: Final = {
    "secret_keys": "TRYON_SECRET_KEY",
    "webhook_secrets": "TRYON_WEBHOOK_SECRET",
    "ops_tokens": "TRYON_OPS_TOKEN",
}


def table() -> list[dataclasses.Field[Any]]:
    """Return the rows of all settings, those of the parts behind the others."""
    return sorted(dataclasses.fields(Config), key=lambda row: row.name not in Config.__annotations__)


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
