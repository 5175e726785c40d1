"""The OpenAPI document as a page for people. No script, and nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any, Final

from sandbox.server.http.openapi import document

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre, summary { font-family: ui-monospace, monospace; font-size: 14px }
summary { padding: .4rem 0; cursor: pointer }
summary b { display: inline-block; min-width: 5rem }
details > :not(summary) { margin-left: 1.5rem }
table { border-collapse: collapse }
td { padding: .1rem 1rem .1rem 0; vertical-align: top }
pre { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8bf } }
"""
# This one style, and nothing else.
POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


@cache
def page(*, guarded: bool = True) -> str:
    """The page of such a server's document, to be sent with `POLICY`."""
    return "\n".join(_page(document(guarded=guarded)))


def _page(shown: Json) -> Iterator[str]:
    info = shown["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    yield "<meta name=viewport content='width=device-width'>"
    yield f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(info['description'])}"
    yield "The document for programs: <a href=openapi.json>openapi.json</a>.</p><h2>Operations</h2>"
    for path, operations in shown["paths"].items():
        for method, operation in operations.items():
            yield from _operation(method, path, operation, shown)
    yield "<h2>Documents</h2>"
    for name, schema in shown["components"]["schemas"].items():
        rest = {key: value for key, value in schema.items() if key != "description"}
        yield f"<details id={name}><summary>{name}</summary>"
        yield _paragraphs(schema.get("description", ""))
        yield f"<pre>{escape(json.dumps(rest, indent=2))}</pre></details>"
    yield "</html>"


def _operation(method: str, path: str, operation: Json, shown: Json) -> Iterator[str]:
    about = f"{operation['summary']} {operation.get('description', '')}"
    yield f"<details><summary><b>{method.upper()}</b> {escape(path)}</summary>{_paragraphs(about)}"
    yield "<table>"
    for parameter in operation.get("parameters", ()):
        yield _row(parameter["name"], parameter["in"], parameter.get("description", ""))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield _row("body", kind, "", _link(content))
    for status, response in operation["responses"].items():
        answer = _resolved(response, shown)
        for kind, content in answer.get("content", {"": {}}).items():
            yield _row(status, kind, answer["description"], _link(content))
    yield "</table></details>"


def _row(name: str, kind: str, text: str, link: str = "") -> str:
    return f"<tr><td><code>{escape(name)}</code><td>{escape(kind)}<td>{_marked(text)}<td>{link}"


def _resolved(response: Json, shown: Json) -> Json:
    reference = response.get("$ref")
    if reference is None:
        return response
    found: Json = shown["components"]["responses"][reference.rpartition("/")[2]]
    return found


def _link(content: Json) -> str:
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f"<a href='#{name}'>{name}</a>" if name else ""


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_marked(part)}</p>" for part in text.strip().split("\n") if part)


def _marked(text: str) -> str:
    """Text in which what stands between backquotes is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
