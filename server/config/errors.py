"""The error of the configuration."""

from __future__ import annotations


class ConfigError(Exception):
    """A malformed, unknown or missing setting, in one line that names it."""
