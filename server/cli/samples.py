"""Commands that make something to try the product with: ``sample-photos``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click


@click.command("sample-photos")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
def sample_photos(folder: Path) -> None:
    """Write sample photos into FOLDER, the way phones make them."""
    from server.adapters.imaging.sample_photos import SIZES, make_samples

    make_samples(folder)
    for name in SIZES:
        click.echo(folder / name)


COMMANDS: Final = (sample_photos,)
