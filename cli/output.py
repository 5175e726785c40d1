r"""Output for people: tables, log lines, errors, responses.

Colours go to terminals only (click strips them elsewhere). Text of a function passes `printable`
first: a terminal obeys escape sequences, and a function must not control it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from sandbox.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandbox.documents.problems import Problem

# Control characters (C0 but tab and newline, DEL, C1), lone surrogates, and characters that
# reorder or break a line of text: U+2028, U+2029, bidirectional controls, annotations.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff]"
)
# A larger figure is not a limit of the sandbox: a function has made it up.
_LARGEST_FIGURE: Final = 1e18

_LEVEL_COLOURS: Final = {"debug": "bright_black", "info": "cyan", "warn": "yellow", "error": "red"}
# The keys of limits in seconds and in bytes; others are plain numbers.
_SECONDS: Final = frozenset({"timeout", "limits.boot", "build.timeout"})
_BYTES: Final = frozenset(
    {"memory", "tmp", "limits.output", "limits.logs", "limits.request", "limits.file_size"}
)


def printable(text: str) -> str:
    r"""`text` with control characters written as `\u001b`; tabs and newlines stay."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _one_line(text: str) -> str:
    """`printable` text on one line, for a name."""
    return printable(text).replace("\n", "\\n")


def _indented(text: str) -> str:
    """`printable` text with further lines indented, so that none looks like a line of ours."""
    return printable(text).replace("\n", "\n        ")


def dump(value: object, *, indent: int | None = None) -> str:
    """JSON text for a terminal: the escapes of `printable` are valid JSON."""
    return printable(json.dumps(value, ensure_ascii=False, indent=indent))


def print_json(value: object) -> None:
    """Print a JSON document on stdout, with line breaks if that is a terminal."""
    click.echo(dump(value, indent=2 if is_terminal() else None))


def print_json_text(text: str) -> None:
    """Print JSON text on stdout; escapes do not change its meaning."""
    click.echo(printable(text))


def is_terminal() -> bool:
    return sys.stdout.isatty()


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns on stdout, two spaces apart; on a terminal, cut the last to fit."""
    lines = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    room = _terminal_width() - sum(widths[:-1]) - 2 * (len(widths) - 1) if is_terminal() else None
    click.secho(_columns(header, widths, room), bold=True)
    for line in lines:
        click.echo(_columns(line, widths, room))


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print `name  value` lines on stdout; further lines of a value are indented."""
    shown = [(name, printable(value)) for name, value in fields]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        label = click.style(name.ljust(width), fg="cyan")
        click.echo(f"{label}  {value.replace(chr(10), chr(10) + ' ' * (width + 2))}")


def print_log(entry: Mapping[str, Any]) -> None:
    """Print a log entry on stderr: level, message, data."""
    level = click.style(f"{entry['level']:<5}", fg=_LEVEL_COLOURS[entry["level"]])
    message = _indented(entry["message"])
    data = f"  {dump(entry['data'])}" if entry["data"] else ""
    click.echo(f"  {level} {message}{click.style(data, dim=True)}", err=True)


def print_problem(problem: Problem) -> None:
    """Print a problem on stderr as a compiler does, and its hint on a second line."""
    colour = "red" if problem.severity == "error" else "yellow"
    severity = click.style(f"{problem.severity}:", fg=colour, bold=True)
    where = click.style(_one_line(problem.where), bold=True)
    click.echo(f"{where}: {severity} {_indented(problem.message)}", err=True)
    if problem.hint:
        click.echo(f"  hint: {_indented(problem.hint)}", err=True)


def print_warning(message: str) -> None:
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {_indented(message)}", err=True)


def print_error(
    code: str, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None
) -> None:
    """Print an error on stderr: code and message, details, hint."""
    label = click.style(f"error: {_one_line(code)}:", fg="red", bold=True)
    click.echo(f"{label} {_indented(message)}", err=True)
    for line in describe_details(details or {}):
        click.echo(f"  {line}", err=True)
    if hint:
        click.echo(f"  hint: {_indented(hint)}", err=True)


def describe_details(details: Mapping[str, Any]) -> list[str]:
    """The details of an error as lines: a limit as a sentence, long text as a block."""
    rest = dict(details)
    lines = []
    if {"limit", "setting"} <= rest.keys():
        lines.append(
            describe_limit(str(rest.pop("setting")), rest.pop("limit"), rest.pop("observed", None))
        )
    for name, value in rest.items():
        if value is None or value in ("", [], {}):
            continue
        if isinstance(value, str) and ("\n" in value or len(value) > 80):
            lines.append(f"{_one_line(name)}:")
            lines.extend(f"  {line}" for line in printable(value.rstrip()).split("\n"))
        else:
            shown = printable(value) if isinstance(value, str) else dump(value)
            lines.append(f"{_one_line(name)}: {shown}")
    return lines


def describe_limit(setting: str, limit: object, observed: object) -> str:
    """`the limit of "memory" is 128mb; 128mb was seen; raise it in the manifest`."""
    if setting == "network":
        tried = "" if observed is None else f"; {dump(observed)} others were tried"
        return _one_line(
            f"it may reach {dump(limit)} destinations{tried}; `network` in the manifest names them"
        )
    seen = "" if observed is None else f"; {_quantity(setting, observed)} was seen"
    place = "the operator's settings" if "." in setting else "the manifest"
    return _one_line(
        f"the limit is {_quantity(setting, limit)}{seen}; `{setting}` in {place} sets it"
    )


def print_response(response: Mapping[str, Any]) -> None:
    """Print a response: output on stdout; error and a line of figures on stderr."""
    error = response.get("error")
    if error is None:
        click.echo(dump(response["output"], indent=2))
    else:
        print_error(error["code"], error["message"], details=error["details"])
    for hit in response["stats"]["limits_hit"]:
        print_warning(describe_limit(hit["setting"], hit["limit"], hit["observed"]))
    click.echo(_figures(response), err=True)


def _figures(response: Mapping[str, Any]) -> str:
    """`succeeded in 41 ms · cold · 12mb · crun · version 3f2a9c1b0d4e`."""
    stats = response["stats"]
    outcome = (
        click.style("succeeded", fg="green", bold=True)
        if response["success"]
        else click.style("failed", fg="red", bold=True)
    )
    figures = [f"in {response['duration_ms']:.0f} ms", "cold" if stats["cold"] else "warm"]
    if stats["peak_memory_bytes"] is not None:
        figures.append(format_size(stats["peak_memory_bytes"]))
    if stats["runtime_class"] is not None:
        figures.append(stats["runtime_class"])
    if stats["version"] is not None:
        figures.append(f"version {short_digest(stats['version'])}")
    return f"{outcome} {click.style(' · '.join(figures), dim=True)}"


def short_digest(digest: str) -> str:
    """The first 12 digits of a digest, without its algorithm."""
    return digest.rpartition(":")[2][:12]


def _columns(cells: Sequence[str], widths: Sequence[int], room: int | None) -> str:
    *first, last = cells
    if room is not None:
        last = _cut(last, max(room, 20))
    padded = [cell.ljust(width) for cell, width in zip(first, widths, strict=False)]
    return "  ".join([*padded, last]).rstrip()


def fit_terminal(line: str) -> str:
    """`line`, cut to fit on one line of the terminal."""
    return _cut(line, _terminal_width() - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _quantity(setting: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return dump(value)
    if not 0 <= value <= _LARGEST_FIGURE:
        return dump(value)
    if setting in _SECONDS:
        return format_duration(value)
    if setting in _BYTES:
        return format_size(round(value))
    return f"{value:g}"


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns
