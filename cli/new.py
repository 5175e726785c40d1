"""`sandbox new`: writes a function to begin with."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Final

import click

from sandbox.config.field_types import check_name
from sandbox.documents.untrusted_files import refusal
from sandbox.errors import InvalidManifestError, InvalidRequestError
from sandbox.runtimes import Runtime

from .options import Common, common_options
from .output import print_json, printable

_TEMPLATES: Final = Path(__file__).parent / "templates"
# Runtime → language of its templates, and the name of the entry file.
_LANGUAGES: Final = {
    Runtime.PYTHON: ("python", "index.py"),
    Runtime.NODE: ("javascript", "index.mjs"),
    Runtime.DENO: ("typescript", "index.ts"),
    Runtime.BUN: ("typescript", "index.ts"),
    Runtime.GO: ("go", "main.go"),
    Runtime.BINARY: ("binary", "serve"),
}


@click.command
@click.argument("name")
@click.option(
    "--runtime",
    type=click.Choice([runtime.value for runtime in Runtime]),
    required=True,
    help="Runtime of the function.",
)
@click.option(
    "--interface",
    type=click.Choice(["handler", "stdio"]),
    default="handler",
    show_default=True,
    help="handler: a function is called; stdio: a script reads stdin and writes stdout.",
)
@common_options
def new(common: Common, name: str, runtime: str, interface: str) -> None:
    """Create a function to begin with.

    Writes an entry file, a manifest with a sample input, and a README into the directory NAME of
    the functions directory. Never overwrites anything.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    directory = common.functions / name
    language, entrypoint = _LANGUAGES[Runtime(runtime)]
    source = _TEMPLATES / f"{language}-{interface}.txt"
    if not source.exists():  # TypeScript's stdio script is JavaScript
        source = _TEMPLATES / f"javascript-{interface}.txt"
    values = {
        "name": name, "runtime": runtime, "interface": interface, "entrypoint": entrypoint,
    }  # fmt: skip
    texts = {
        entrypoint: source.read_text(),
        "function.yaml": _filled("function.yaml", values),
        "README.md": _filled("README.md", values),
    }
    _write(directory, texts, executable=entrypoint if runtime == Runtime.BINARY else None)
    if common.json:
        print_json({"name": name, "files": [str(directory / file) for file in texts]})
        return
    for file in texts:
        click.echo(f"created {printable(str(directory / file))}")
    click.echo(f'try it: sandbox invoke {name} -d \'{{"name": "World"}}\'', err=True)


def _filled(name: str, values: dict[str, str]) -> str:
    return Template((_TEMPLATES / f"{name}.txt").read_text()).substitute(values)


def _write(directory: Path, texts: dict[str, str], *, executable: str | None) -> None:
    """Create the directory and its files. Of two processes that try, one creates the directory."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir()
        for name, text in texts.items():
            path = directory / name
            path.write_text(text)
            if name == executable:
                path.chmod(0o755)
    except FileExistsError:
        raise InvalidRequestError(
            f"{directory} exists already", hint="choose another name, or remove it"
        ) from None
    except OSError as error:
        refused = refusal(error)
        raise InvalidManifestError(f"{directory}: {refused.message}", hint=refused.hint) from None
