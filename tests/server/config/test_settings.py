"""The settings: defaults, precedence, refusals, generated documents."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from server.config import render
from server.config.parsing import EXAMPLE_SECRET, UploadRate
from server.config.settings import SECRET_VARIABLES, Config, ConfigError, default_text, variable
from testkit.disks import out_of_reach

ROOT = Path(__file__).resolve().parents[3]
WEBHOOK_SECRET = "whsec_" + "A" * 32


def load(**environ: str) -> Config:
    return Config.load(environ, env_file=None)


def test_defaults_need_no_setting() -> None:
    """Load with an empty environment."""
    config = load()
    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert config.database == f"sqlite+aiosqlite:///{Path('data/tryon.sqlite3').absolute()}"
    assert config.upload_rate == UploadRate(10, 60)


def test_empty_value_means_the_default() -> None:
    """Treat ``TRYON_PORT=`` as unset."""
    assert load(TRYON_PORT="", TRYON_DATABASE_URL="  ").port == 8000


def test_port_of_platform_counts_without_a_setting() -> None:
    """Listen where Railway or Render says, unless ``TRYON_PORT`` says otherwise."""
    assert load(PORT="8123").port == 8123
    assert load(PORT="8123", TRYON_PORT="8124").port == 8124
    assert load(PORT="8123", TRYON_PORT="").port == 8123
    assert load(PORT="").port == 8000
    with pytest.raises(ConfigError, match=r"^PORT: must be a number \(found 'tcp'\); TRYON_PORT would win over it$"):
        load(PORT="tcp")
    assert load(PORT="tcp", TRYON_PORT="8124").port == 8124


def test_environment_wins_over_the_dotenv_file(tmp_path: Path) -> None:
    """Prefer the environment's value."""
    (tmp_path / ".env").write_text("TRYON_PORT=1000\nTRYON_HOST=0.0.0.0\nOTHER=1\n")
    config = Config.load({"TRYON_PORT": "2000"}, env_file=tmp_path / ".env")
    assert (config.host, config.port) == ("0.0.0.0", 2000)


def test_override_wins_over_the_environment() -> None:
    """Prefer the caller's value."""
    assert Config.load({"TRYON_PORT": "2000"}, env_file=None, port=3000).port == 3000


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TRYON_PORT", "eighty", "must be a number"),
        ("TRYON_PORT", "70000", "must be from 0 to 65535"),
        ("TRYON_MOCK_FAILURE_RATE", "1.5", "must be from 0 to 1"),
        ("TRYON_PORT", "8_000", "must be a number"),
        ("TRYON_PORT", "9" * 5000, "must be from 0 to 65535"),
        ("TRYON_MOCK_SECONDS", "nan", "must be a number"),
        ("TRYON_MOCK_SECONDS", "-1", "must be from 0 to 3600"),
        ("TRYON_UPLOAD_RATE", "1\u0660/minute", "must look like 10/minute"),
        ("TRYON_UPLOAD_RATE", "10 per minute", "must look like 10/minute"),
        ("TRYON_TRUSTED_PROXIES", "proxy.example", "does not appear to be an IPv4 or IPv6 network"),
        ("TRYON_ORIGINS", "shop.example", "is not an origin like https://shop.example"),
        ("TRYON_ORIGINS", "https://shop.example/", "is not an origin like https://shop.example"),
        ("TRYON_SECRET_KEY", "short", "at least 32 bytes"),
        ("TRYON_SECRET_KEY", "", "at least 32 bytes"),
        ("TRYON_SECRET_KEY", " ,", "at least 32 bytes"),
        ("TRYON_SECRET_KEY", "x" * 32 + "," + "y" * 31, "at least 32 bytes"),
        ("TRYON_SECRET_KEY", "x" * 32 + "," + EXAMPLE_SECRET, "the documentation is public"),
        ("TRYON_DATABASE_URL", "mysql://localhost/x", "must begin with sqlite:// or postgresql://"),
        ("TRYON_REDIS_URL", "localhost:6379", "must begin with redis://"),
        ("TRYON_REDIS_URL", "redis://host:99999/0", "must look like redis://host:6379/0"),
        ("TRYON_REDIS_URL", "redis://host:port/0", "must look like redis://host:6379/0"),
        ("TRYON_REDIS_URL", "redis://host/db", "must look like redis://host:6379/0"),
        ("TRYON_REDIS_URL", "redis://[::1/0", "must look like redis://host:6379/0"),
        ("TRYON_REDIS_URL", "unix://", "must look like redis://host:6379/0"),
        ("TRYON_DATA_DIR", "~no-such-user/data", "there is no such home folder"),
        ("TRYON_LOG_FORMAT", "xml", "must be one of text, json"),
    ],
)
def test_malformed_setting_is_named_in_one_line(name: str, value: str, told: str) -> None:
    """Name the variable, the reason and the value."""
    with pytest.raises(ConfigError, match=f"^{name}: ") as refused:
        load(**{name: value})
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["processor_cpu_seconds", "processor_memory_bytes"])
def test_processor_limits_can_be_off(name: str) -> None:
    """Accept ``off`` and numbers."""
    variable = f"TRYON_{name.upper()}"
    assert getattr(Config.load({variable: "off"}, env_file=None), name) is None
    assert getattr(Config.load({variable: "20000000"}, env_file=None), name) == 20_000_000
    with pytest.raises(ConfigError, match=variable):
        Config.load({variable: "0"}, env_file=None)


def test_unknown_setting_suggests_the_closest_name() -> None:
    """Name the unknown variable and a likely one."""
    with pytest.raises(ConfigError, match=r"TRYON_WEB_PROCESS is not .* did you mean TRYON_WEB_PROCESSES\?"):
        load(TRYON_WEB_PROCESS="2")


@pytest.mark.parametrize("name", sorted(SECRET_VARIABLES - {"TRYON_PROCESSOR_OPTIONS"}))  # the worker reads those
def test_secret_is_not_repeated_in_errors(name: str) -> None:
    """Leave the value of a secret out of the message."""
    with pytest.raises(ConfigError) as refused:
        load(**{name: "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_repr_contains_no_secret() -> None:
    """Hide keys and URLs with passwords."""
    config = load(TRYON_DATABASE_URL="postgresql+asyncpg://me:hunter2@db/x", TRYON_SECRET_KEY="hunter2" * 6)
    assert "hunter2" not in repr(config)


def test_documented_secret_is_the_refused_one() -> None:
    """The example of the documentation cannot be copied into a running system."""
    documented = re.findall(r"TRYON_SECRET_KEY=(\S+)", (ROOT / "docs" / "deploying.md").read_text())
    assert documented == [EXAMPLE_SECRET]


@pytest.mark.parametrize("content", ["", "\n", "short", EXAMPLE_SECRET])
def test_secret_file_must_hold_a_secret(tmp_path: Path, content: str) -> None:
    """An empty or short file is named in one line, not signed with."""
    (tmp_path / "secret.key").write_text(content)
    with pytest.raises(ConfigError, match=r"^TRYON_SECRET_KEY: cannot use .*secret\.key: [^\n]*$"):
        Config(data_dir=tmp_path).signing_keys()


def test_secret_key_is_generated_once(tmp_path: Path) -> None:
    """Return the same key each time, readable by its owner alone."""
    config = Config(data_dir=tmp_path / "new")
    keys = config.signing_keys()
    assert len(keys[0]) >= 32
    assert Config(data_dir=tmp_path / "new").signing_keys() == keys
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret.key"]
    assert os.stat(tmp_path / "new" / "secret.key").st_mode & 0o777 == 0o600


def test_redis_url_defaults_to_the_running_stack(tmp_path: Path) -> None:
    """Read the address file, else refuse in one line."""
    config = Config(data_dir=tmp_path)
    with pytest.raises(ConfigError, match="TRYON_REDIS_URL is not set"):
        _ = config.redis
    config.redis_address_file.write_text("unix:///tmp/x/valkey.sock\n")
    assert config.redis == "unix:///tmp/x/valkey.sock"
    assert Config(data_dir=tmp_path, redis_url="redis://elsewhere").redis == "redis://elsewhere"


def test_address_file_out_of_reach_is_named(tmp_path: Path) -> None:
    """A folder of another user, a file in its place, and a file without an address."""
    folder, file = tmp_path / "data", tmp_path / "file"
    folder.mkdir()
    file.touch()
    with (
        out_of_reach(folder),
        pytest.raises(ConfigError, match=rf"^TRYON_DATA_DIR: cannot read {folder}/.*: Permission"),
    ):
        _ = Config(data_dir=folder).redis
    with pytest.raises(ConfigError, match=rf"^TRYON_DATA_DIR: cannot read {file}/valkey.address: Not a directory$"):
        _ = Config(data_dir=file).redis
    for content in (b"", b"nonsense", b"\xff\xfe"):
        (folder / "valkey.address").write_bytes(content)
        with pytest.raises(ConfigError, match=r"^TRYON_DATA_DIR: .*valkey\.address holds no address"):
            _ = Config(data_dir=folder).redis


def test_dotenv_file_out_of_reach_is_named(tmp_path: Path) -> None:
    """A file that may not be read, or is no text; a folder of that name is none."""
    folder, file = tmp_path / "project", tmp_path / ".env"
    folder.mkdir()
    with out_of_reach(folder), pytest.raises(ConfigError, match=rf"^cannot read {folder}/.env: Permission denied$"):
        Config.load({}, env_file=folder / ".env")
    file.write_bytes(b"TRYON_HOST=\xff")
    with pytest.raises(ConfigError, match=rf"^cannot read {file}: it is not UTF-8$"):
        Config.load({}, env_file=file)
    assert Config.load({}, env_file=folder).port == 8000


def test_example_file_matches_the_command() -> None:
    """Keep .env.example in step with ``tryon settings --env``."""
    assert (ROOT / ".env.example").read_text() == render.env_file(), "run: tryon settings --env > .env.example"


def test_settings_are_listed_as_json() -> None:
    """One object a line, with the rows of the table."""
    listed = [json.loads(line) for line in render.json_lines().splitlines()]
    assert [(each["name"], each["default"], each["meaning"]) for each in listed] == render.rows()


def test_example_file_lines_load_as_defaults(tmp_path: Path) -> None:
    """Load each line uncommented and get the default; a secret is to be filled in."""
    lines = [line.removeprefix("# ") for line in render.env_file().splitlines() if line.startswith("# TRYON_")]
    assert len(lines) == len(dataclasses.fields(Config))
    (tmp_path / ".env").write_text("\n".join(line for line in lines if line != "TRYON_SECRET_KEY="))
    assert Config.load({}, env_file=tmp_path / ".env") == Config()


def test_every_setting_has_a_meaning() -> None:
    """Document each setting in both tables."""
    for row in dataclasses.fields(Config):
        assert row.metadata["meaning"].endswith("."), row.name
        assert variable(row) in render.markdown_table()
        assert default_text(row), row.name


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"TRYON_WEBHOOK_URL": "https://shop.example/"}, "TRYON_WEBHOOK_SECRET must be set"),
        ({"TRYON_WEBHOOK_HOSTS": "shop.example"}, "TRYON_WEBHOOK_SECRET must be set"),
        ({"TRYON_WEBHOOK_URL": "http://shop.example/", "TRYON_WEBHOOK_SECRET": WEBHOOK_SECRET}, "http needs"),
        ({"TRYON_WEBHOOK_URL": "https://me:pass@shop.example/"}, "found its value"),
        ({"TRYON_WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"TRYON_WEBHOOK_SECRET": WEBHOOK_SECRET.removeprefix("whsec_")}, "24 to 64 bytes"),
        ({"TRYON_WEBHOOK_HOSTS": "https://shop.example"}, "not a host"),
        ({"TRYON_WEBHOOK_PRIVATE": "true"}, "one of yes, no"),
    ],
)
def test_contradicting_webhook_settings_are_refused(settings: dict[str, str], complaint: str) -> None:
    """At the start, in one line."""
    with pytest.raises(ConfigError, match=complaint):
        load(**settings)


def test_webhook_settings_are_read() -> None:
    """Several secrets are taken."""
    config = load(
        TRYON_WEBHOOK_URL="http://10.0.0.7:9000/hook",
        TRYON_WEBHOOK_SECRET=f"{WEBHOOK_SECRET},{WEBHOOK_SECRET}",
        TRYON_WEBHOOK_PRIVATE="yes",
    )
    assert config.webhook_url == "http://10.0.0.7:9000/hook"
    assert config.webhook_secrets == (bytes(24), bytes(24))
