"""Sources of settings beside the environment: ``.env`` and the data folder."""

from __future__ import annotations

import stat
from pathlib import Path

from dotenv import dotenv_values

from server.config import parsing, secret_file
from server.config.errors import ConfigError


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder if it is missing. Raises :class:`ConfigError`."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"TRYON_DATA_DIR: cannot use {data_dir}: {error.strerror}") from None


def generated_keys(path: Path) -> tuple[str, ...]:
    """Return the secret of a file, generated if it is missing. Raises ConfigError."""
    try:
        return parsing.secret_keys(secret_file.read_or_make(path))
    except OSError as error:
        raise ConfigError(f"TRYON_SECRET_KEY: cannot use {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"TRYON_SECRET_KEY: cannot use {path}: {error}") from None


def noted_address(note: Path) -> str:
    """Return the address that `tryon up` noted in a file. Raises ConfigError."""
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


def variables_of(env_file: Path) -> dict[str, str]:
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
