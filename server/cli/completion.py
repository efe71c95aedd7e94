"""The command that completes the others: ``completion bash|zsh|fish``."""

from __future__ import annotations

from typing import Final

import click

_VARIABLE: Final = "_TRYON_COMPLETE"
"""Variable by which a shell asks this program for completions."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the completion script of a shell.

    \b
    bash: eval "$(tryon completion bash)"       in ~/.bashrc
    zsh:  eval "$(tryon completion zsh)"        in ~/.zshrc, after compinit
    fish: tryon completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "tryon", _VARIABLE).source())


COMMANDS: Final = (completion,)
