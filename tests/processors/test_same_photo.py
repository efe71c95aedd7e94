"""The same photo and garment go through every processor by settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.processors.backends import BACKENDS
from tests.processors.product import running_product


@pytest.mark.slow
async def test_same_photo_goes_through_every_processor(outfit: Mapping[str, bytes], tmp_path: Path) -> None:
    """One installation changes its processor, and nothing else; old sessions stay."""
    made: dict[str, str] = {}
    token = ""
    for backend in BACKENDS:
        async with (
            backend.open(tmp_path / backend.name) as opened,
            running_product(tmp_path / "product", outfit, opened.settings) as product,
        ):
            token = token or product.token
            product.client.headers["Authorization"] = f"Bearer {token}"
            product.token = token
            session_id = await product.upload({})
            async with product.watching(session_id) as watcher:
                await watcher.event("completed")
            made[session_id] = backend.processor
            for each, processor in made.items():
                session = await product.session(each)
                assert (session["status"], session["processor"]) == ("completed", processor)
                assert await product.picture(session["outputs"][0]["link"])
