"""`sandbox completion`: the script by which a shell completes commands and names of functions."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell's completion script.

    \b
    bash  eval "$(sandbox completion bash)"  in ~/.bashrc
    zsh   eval "$(sandbox completion zsh)"   in ~/.zshrc
    fish  sandbox completion fish | source   in ~/.config/fish/config.fish
    """
    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 - click knows the three
    root = ctx.find_root().command
    click.echo(complete(root, {}, "sandbox", "_SANDBOX_COMPLETE").source())
