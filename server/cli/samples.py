"""Commands that make something to try the product with: ``sample-photos``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import msgspec

from server.cli import arguments
from server.cli.failing import fail


@click.command("sample-photos")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@arguments.JSON
def sample_photos(folder: Path, as_json: bool) -> None:
    """Write sample photos into FOLDER, the way phones make them."""
    from server.adapters.imaging.sample_photos import SIZES, make_samples

    try:
        make_samples(folder)
    except OSError as error:
        fail(f"cannot write to {folder}: {error.strerror}", 2)
    for name, (width, height) in SIZES.items():
        path = folder / name
        sample = {"path": str(path), "width": width, "height": height}
        click.echo(msgspec.json.encode(sample) if as_json else path)


COMMANDS: Final = (sample_photos,)
