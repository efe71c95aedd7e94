"""A model on a Cog server: one's own, or any container that Cog has built."""

from __future__ import annotations

from worker.processors.cog.processor import CogProcessor

__all__ = ["CogProcessor"]
