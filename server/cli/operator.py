"""Commands for operators: ``settings``."""

from __future__ import annotations

from typing import Final

import click

from server.config import render


@click.command()
@click.option("--env", "form", flag_value="env", help="As a .env file (what .env.example is).")
@click.option("--markdown", "form", flag_value="markdown", help="As a Markdown table.")
@click.option("--json", "form", flag_value="json", help="As one JSON object per line.")
def settings(form: str | None) -> None:
    """Print every setting with its default and meaning."""
    forms = {"env": render.env_file, "markdown": render.markdown_table, "json": render.json_lines}
    click.echo(forms.get(form or "", render.plain_table)(), nl=False)


COMMANDS: Final = (settings,)
