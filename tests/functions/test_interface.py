from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.functions.interface import detect_interface
from sandbox.runtimes import Runtime

PYTHON_HANDLERS = [
    "def handler(ctx):\n    return 1",
    "import x\nasync def handler(input, ctx):\n    return 1",
    "handler = make()",
    "handler: Callable = make()",
    "from app import handler",
    "def handler(ctx): ...\nif __name__ == '__main__':\n    print(handler(None))",
    'def handler(ctx):\n    """Reads nothing from sys.stdin."""\n    # sys.stdin.read()',
    "def handler(ctx):\n    p = run()\n    p.stdin.write(b'x')",
]
PYTHON_STDIO = [
    "",
    "import sys, json\nprint(json.load(sys.stdin))",
    "import sys\ndef handler(r): ...\nif __name__ == '__main__':\n    handler(sys.stdin.read())",
    "def handler(r): return r\nhandler(input())",
    "class A:\n    def handler(self): ...",
    "# def handler(ctx):",
    '"""\ndef handler(ctx):\n"""',
    "'''\ndef handler(ctx):\n'''",
    "def handler(ctx): ...\nopen(0).read()",
    "def handler(ctx): ...\nopen('/dev/stdin')",
    "def handler(ctx): ...\nfor line in fileinput.input(): ...",
    "from sys import argv, stdin\ndef handler(ctx): ...\nstdin.read()",
    "handler == 1",
    "def handlers(ctx): ...",
]
SCRIPT_HANDLERS = [
    "export default async function handler(ctx) {}",
    "export default { handler(input, ctx) {} }",
    "const f = () => 1; export { f as default }",
    "export { a, f as default, b };",
    "module.exports = async (ctx) => 1",
    "module.exports.handler = f",
    "exports.handler = f",
    "exports.default = f",
    "const child = spawn('x'); child.stdin.write('y'); export default f",
    "// process.stdin is not read\nexport default f",
    "/* Deno.stdin */ export default () => 'process.stdin'",
]
SCRIPT_STDIO = [
    "",
    "const input = await Bun.stdin.text(); console.log(input)",
    "process.stdin.on('data', f); module.exports = f",
    "for await (const c of Deno.stdin.readable) {} export default f",
    "import { stdin } from 'node:process'; export default f",
    "const { stdin } = process; module.exports = f",
    "fs.readFileSync(0, 'utf8'); module.exports = f",
    "fs.readFileSync('/dev/stdin'); module.exports = f",
    "fs.createReadStream(null, {fd: 0}); module.exports = f",
    "// export default f",
    "/* export default f */",
    "const s = 'export default f'",
    "const s = `export default f`",
    "if (module.exports == 1) {}",
    "my.exports.handler = 1",
]


@pytest.mark.parametrize("source", PYTHON_HANDLERS)
def test_python_handlers(source: str) -> None:
    assert detect_interface(Runtime.PYTHON, source) == "handler"


@pytest.mark.parametrize("source", PYTHON_STDIO)
def test_python_scripts(source: str) -> None:
    assert detect_interface(Runtime.PYTHON, source) == "stdio"


@pytest.mark.parametrize("runtime", [Runtime.NODE, Runtime.DENO, Runtime.BUN])
@pytest.mark.parametrize("source", SCRIPT_HANDLERS)
def test_javascript_handlers(runtime: Runtime, source: str) -> None:
    assert detect_interface(runtime, source) == "handler"


@pytest.mark.parametrize("runtime", [Runtime.NODE, Runtime.DENO, Runtime.BUN])
@pytest.mark.parametrize("source", SCRIPT_STDIO)
def test_javascript_scripts(runtime: Runtime, source: str) -> None:
    assert detect_interface(runtime, source) == "stdio"


@pytest.mark.parametrize(
    ("source", "interface"),
    [
        ("package hello\nfunc Handler(ctx *alyx.Context) (any, error) {}", "handler"),
        ("package main\nfunc main() {}", "stdio"),
        ("package main\nfunc Handler(c *C) {}\nfunc main() {}", "stdio"),
        ("package hello\n// func Handler(\n", "stdio"),
        ("package hello\nvar s = `\nfunc Handler(`", "stdio"),
        ("package hello\nfunc (s *S) Handler() {}", "stdio"),
    ],
)
def test_go(source: str, interface: str) -> None:
    assert detect_interface(Runtime.GO, source) == interface


def test_a_binary_is_a_script() -> None:
    assert detect_interface(Runtime.BINARY, "def handler(ctx): ...") == "stdio"


@pytest.mark.parametrize(
    "part",
    [
        *('"', "'", "`", '"""', "/*", "//", "#", "\\", " ", "{", "import {", "export { as "),
        *(
            "{ stdin ",
            "sys ",
            "handler ",
            "module\n",
            "from a.b ",
            "open ",
            "exports .",
            "readFile ",
        ),
    ],
)
@pytest.mark.parametrize("runtime", [Runtime.PYTHON, Runtime.NODE, Runtime.GO])
def test_hostile_text_takes_no_longer_than_its_length(runtime: Runtime, part: str) -> None:
    handlers = {Runtime.PYTHON: "def handler(", Runtime.NODE: "export default ", Runtime.GO: ""}
    source = handlers[runtime] + "\n" + part * (200_000 // len(part))
    started = time.process_time()
    detect_interface(runtime, source)
    assert time.process_time() - started < 2  # some ten times what it takes


@given(st.sampled_from(Runtime), st.text())
def test_no_text_makes_it_raise(runtime: Runtime, source: str) -> None:
    assert detect_interface(runtime, source) in ("stdio", "handler")
