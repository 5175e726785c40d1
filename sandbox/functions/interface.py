"""Detects the interface of a function from its text, without running anything.

A function is a handler if its entry file exports one and never reads stdin itself. A file that does
both works unmodified as a stdio script, so it counts as one.

Matching text is enough, and safer than parsing: hostile text can crash a parser. Every pattern
takes time in proportion to the length of the text.
"""

from __future__ import annotations

import re
from typing import Final

from sandbox.runtimes import Interface, Runtime

# Comments and strings. An unclosed one runs to the end of the text, or of the line. A pattern that
# failed there would be tried again from every quote.
_PYTHON_TEXTS: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\\?\Z)'
    r"|'''(?:[^'\\]|\\.|'(?!''))*+(?:'''|\\?\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?"
    r"|(?P<comment>\#[^\n]*)",
    re.DOTALL,
)
_SCRIPT_TEXTS: Final = re.compile(
    r'"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?"
    r"|`(?:[^`\\]|\\.)*+`?"
    r"|(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))",
    re.DOTALL,
)

_PYTHON_HANDLER: Final = re.compile(
    r"^(?:(?:async[ \t]+)?def[ \t]+handler[ \t]*\("
    r"|handler[ \t]*(?::[^=\n]*)?=(?!=)"
    r"|from[ \t]+[\w.]+[ \t]+import\b[^\n]*\bhandler\b)",
    re.MULTILINE,
)
_PYTHON_STDIN: Final = re.compile(
    r"\bsys[ \t]*\.[ \t]*stdin\b|^from[ \t]+sys[ \t]+import\b[^\n]*\bstdin\b"
    r"|(?<![\w.])input[ \t]*\(|\bfileinput\b|(?<![\w.])open[ \t]*\([ \t]*0\b"
    r"|\bos[ \t]*\.[ \t]*(?:read|fdopen)[ \t]*\([ \t]*0\b",
    re.MULTILINE,
)
_SCRIPT_HANDLER: Final = re.compile(
    r"\bexport\s+default\b|\bexport\s*\{[^{}]*?\bas\s{1,20}default\b"
    r"|\bmodule\s*\.\s*exports(?:\s*\.\s*(?:handler|default))?\s*=(?!=)"
    r"|(?<![\w.])exports\s*\.\s*(?:handler|default)\s*=(?!=)"
)
_SCRIPT_STDIN: Final = re.compile(
    r"\b(?:process|Deno|Bun)\s*\.\s*(?:stdin|openStdin)\b"
    r"|\bimport\s*\{[^{}]{0,200}\bstdin\b"
    r"|\{[^{}]{0,200}\bstdin\b[^{}]{0,200}\}\s{0,20}=\s{0,20}(?:process|Deno|Bun)\b"
    r"|\b(?:readFile|readFileSync|readSync)\s*\(\s*0\b|\bfd\s*:\s*0\b"
)
_GO_HANDLER: Final = re.compile(r"^func[ \t]+Handler[ \t]*\(", re.MULTILINE)
_GO_MAIN: Final = re.compile(r"^func[ \t]+main[ \t]*\(", re.MULTILINE)
_STDIN_FILE: Final = re.compile(r"/dev/stdin\b|/proc/self/fd/0\b|/dev/fd/0\b")


def detect_interface(runtime: Runtime, source: str) -> Interface:
    """The interface of a function, from the text of its entry file."""
    match runtime:
        case Runtime.PYTHON:
            return _judge(source, _PYTHON_TEXTS, _PYTHON_HANDLER, _PYTHON_STDIN)
        case Runtime.DENO | Runtime.NODE | Runtime.BUN:
            return _judge(source, _SCRIPT_TEXTS, _SCRIPT_HANDLER, _SCRIPT_STDIN)
        case Runtime.GO:
            return _judge(source, _SCRIPT_TEXTS, _GO_HANDLER, _GO_MAIN)
        case Runtime.BINARY:
            return "stdio"


def _judge(
    source: str, texts: re.Pattern[str], handler: re.Pattern[str], stdio: re.Pattern[str]
) -> Interface:
    """`handler` where the code matches `handler` and nothing in it says `stdio`."""
    code = texts.sub('""', source)
    if not handler.search(code) or stdio.search(code):
        return "stdio"
    with_texts = texts.sub(lambda match: "" if match["comment"] else match[0], source)
    return "stdio" if _STDIN_FILE.search(with_texts) else "handler"
