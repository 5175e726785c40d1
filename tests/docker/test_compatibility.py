"""Functions as other people write them for Alyx answer as they would there, unmodified."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.models import FileUpload

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.models import FunctionResponse

    Invoke = Callable[..., FunctionResponse]
    Write = Callable[..., None]

# Each of these answers {"name": NAME, "length": number of characters in NAME}.
STDIO: dict[str, dict[str, str]] = {
    "python, sys.stdin.read and sys.exit": {
        "f/index.py": """#!/usr/bin/env python3
import json, sys

def main():
    try:
        request = json.loads(sys.stdin.read())
        if not all(key in request for key in ["request_id", "function", "input"]):
            raise ValueError("Invalid request")
        name = request["input"].get("name", "World")
        print(json.dumps({
            "request_id": request["request_id"],
            "success": True,
            "output": {"name": name, "length": len(name)},
        }))
        sys.exit(0)
    except Exception as e:
        print(json.dumps({"request_id": "unknown", "success": False, "error": str(e),
                          "error_code": "EXECUTION_ERROR"}))
        sys.exit(1)

if __name__ == "__main__":
    main()
""",
        "f/manifest.yaml": "name: f\nruntime: python\ndescription: says hello\n",
    },
    "python, line by line": {
        "f/index.py": """
import json, sys
text = ""
for line in sys.stdin:
    text += line
name = json.loads(text)["input"]["name"]
json.dump({"success": True, "output": {"name": name, "length": len(name)}}, sys.stdout)
""",
    },
    "python, input()": {
        "f/main.py": """
import json
name = json.loads(input())["input"]["name"]
print(json.dumps({"success": True, "output": {"name": name, "length": len(name)}}))
""",
    },
    "python, bytes in and bytes out": {
        "f/index.py": """
import json, sys
name = json.load(sys.stdin.buffer)["input"]["name"]
document = {"success": True, "output": {"name": name, "length": len(name)}}
sys.stdout.buffer.write(json.dumps(document, ensure_ascii=False).encode("utf-8"))
""",
    },
    "python, modules and data of its own": {
        "f/index.py": """
import json, sys
from lib.measure import measure
request = json.load(sys.stdin)
with open("answer.json") as file:
    answer = json.load(file)
answer["output"] = {"name": request["input"]["name"], "length": measure(request["input"]["name"])}
print(json.dumps(answer))
""",
        "f/lib/measure.py": "def measure(text):\n    return len(text)\n",
        "f/answer.json": '{"success": true}',
    },
    "python, a single file with its manifest": {
        "f.py": """
import json, sys
name = json.load(sys.stdin)["input"]["name"]
print(json.dumps({"success": True, "output": {"name": name, "length": len(name)}}))
""",
        "f.yaml": "timeout: 20s\nmemory: 64mb\n",
    },
    "node, CommonJS with readline and process.exit": {
        "f/index.js": """#!/usr/bin/env node
const readline = require('readline');

function readStdin() {
  return new Promise((resolve) => {
    let text = '';
    const lines = readline.createInterface({
      input: process.stdin, output: process.stdout, terminal: false,
    });
    lines.on('line', (line) => { text += line; });
    lines.on('close', () => resolve(text));
  });
}

async function main() {
  const request = JSON.parse(await readStdin());
  const name = request.input.name || 'World';
  console.log(JSON.stringify({
    request_id: request.request_id,
    success: true,
    output: { name, length: [...name].length },
  }));
  process.exit(0);
}
main();
""",
        "f/manifest.yaml": "name: f\nruntime: node\n",
    },
    "node, ES module by package.json, events": {
        "f/package.json": '{"name": "f", "type": "module", "private": true}',
        "f/index.js": """
import { measure } from './lib/measure.js';

let text = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (chunk) => { text += chunk; });
process.stdin.on('end', () => {
  const { name } = JSON.parse(text).input;
  process.stdout.write(JSON.stringify({ success: true, output: { name, length: measure(name) } }));
});
""",
        "f/lib/measure.js": "export const measure = (text) => [...text].length;\n",
    },
    "node, readFileSync(0)": {
        "f/index.cjs": """
const { readFileSync } = require('fs');
const { name } = JSON.parse(readFileSync(0, 'utf8')).input;
console.log(JSON.stringify({ success: true, output: { name, length: [...name].length } }));
""",
    },
    "node, top-level await in .mjs": {
        "f/index.mjs": """
import { text } from 'node:stream/consumers';
const { name } = JSON.parse(await text(process.stdin)).input;
console.log(JSON.stringify({ success: true, output: { name, length: [...name].length } }));
""",
    },
    "node, TypeScript as it is": {
        "f/index.ts": """
interface Request { request_id: string; input: { name: string } }
const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
const request = JSON.parse(Buffer.concat(chunks).toString('utf8')) as Request;
const length: number = [...request.input.name].length;
console.log(JSON.stringify({ success: true, output: { name: request.input.name, length } }));
""",
    },
    "node, TypeScript built by its author": {
        "f/manifest.yaml": """
name: f
runtime: node
entrypoint: dist/index.js
timeout: 30s
memory: 128mb
build:
  command: npm
  args: ["run", "build"]
  watch: ["*.ts"]
  output: dist/index.js
""",
        "f/package.json": '{"name": "f", "scripts": {"build": "tsc"}, "main": "dist/index.js"}',
        "f/index.ts": "export {};\n",
        "f/dist/index.js": """"use strict";
Object.defineProperty(exports, "__esModule", { value: true });
const fs_1 = require("fs");
const request = JSON.parse((0, fs_1.readFileSync)(0, "utf8"));
const name = request.input.name;
console.log(JSON.stringify({ success: true, output: { name, length: [...name].length } }));
""",
    },
    "node, TypeScript not built yet, declared in schema.yaml": {
        "schema.yaml": """
version: 1
functions:
  f:
    runtime: node
    entrypoint: dist/index.js
    description: TypeScript with a build step
    timeout: 30s
    memory: 128mb
    build:
      command: npm
      args: ["run", "build"]
      watch: ["*.ts"]
      output: dist/index.js
collections:
  users:
    fields:
      id: {type: uuid, primary: true, default: auto}
""",
        "functions/f/package.json": """{
  "name": "f",
  "type": "module",
  "scripts": {"build": "esbuild index.ts --bundle --platform=node --outfile=dist/index.js"},
  "devDependencies": {"esbuild": "^0.19.0"}
}""",
        "functions/f/index.ts": """#!/usr/bin/env node
interface Answer { request_id: string; success: boolean; output?: any }

async function main() {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) {
    chunks.push(chunk);
  }
  const request = JSON.parse(Buffer.concat(chunks).toString('utf-8'));
  const name = request.input.name || 'World';
  const answer: Answer = {
    request_id: request.request_id,
    success: true,
    output: { name, length: [...name].length },
  };
  console.log(JSON.stringify(answer));
  process.exit(0);
}
main();
""",
    },
    "deno, shebang and chunks": {
        "f/index.ts": """#!/usr/bin/env -S deno run --allow-all

interface FunctionRequest { request_id: string; function: string; input: Record<string, any> }

async function main() {
  const chunks: Uint8Array[] = [];
  for await (const chunk of Deno.stdin.readable) chunks.push(chunk);
  const bytes = new Uint8Array(chunks.flatMap((chunk) => Array.from(chunk)));
  const request: FunctionRequest = JSON.parse(new TextDecoder().decode(bytes));
  const name = request.input.name || 'World';
  console.log(JSON.stringify({
    request_id: request.request_id,
    success: true,
    output: { name, length: [...name].length },
  }));
  Deno.exit(0);
}

main();
""",
        "f/manifest.yaml": "name: f\nruntime: deno\n",
    },
    "deno, modules of its own and deno.json": {
        "f/deno.json": '{"imports": {"measure": "./lib/measure.ts"}}',
        "f/main.ts": """
import { measure } from "measure";
import { readFileSync } from "node:fs";
const { name } = JSON.parse(readFileSync("/dev/stdin", "utf8")).input;
console.log(JSON.stringify({ success: true, output: { name, length: measure(name) } }));
""",
        "f/lib/measure.ts": "export const measure = (text: string): number => [...text].length;\n",
    },
    "bun, Bun.stdin.text": {
        "f/index.ts": """
interface FunctionRequest { request_id: string; input: { name?: string }; context: any }
const request: FunctionRequest = JSON.parse(await Bun.stdin.text());
const name = request.input.name || "World";
console.log(JSON.stringify({
  request_id: request.request_id, success: true, output: { name, length: [...name].length },
}));
""",
        "f/bunfig.toml": "",
    },
    "bun, Bun.stdin.json and enum": {
        "f/index.ts": """
enum Kind { Greeting = "greeting" }
const { input } = await Bun.stdin.json();
const output = { name: input.name, length: [...input.name].length };
await Bun.write(Bun.stdout, JSON.stringify({ success: true, output, kind: Kind.Greeting }));
""",
        "f/manifest.yaml": "runtime: bun\n",
    },
    "go, one file and no go.mod": {
        "f/main.go": """package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"unicode/utf8"
)

func main() {
	data, _ := io.ReadAll(bufio.NewReader(os.Stdin))
	var request struct {
		RequestID string                 `json:"request_id"`
		Input     map[string]interface{} `json:"input"`
	}
	if err := json.Unmarshal(data, &request); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	name := request.Input["name"].(string)
	out, _ := json.Marshal(map[string]interface{}{
		"request_id": request.RequestID, "success": true,
		"output": map[string]interface{}{"name": name, "length": utf8.RuneCountInString(name)},
	})
	fmt.Println(string(out))
}
""",
    },
    "go, packages of its own": {
        "f/go.mod": "module example.com/f\n\ngo 1.22\n",
        "f/main.go": """package main

import (
	"encoding/json"
	"os"

	"example.com/f/measure"
)

func main() {
	var request struct{ Input struct{ Name string } }
	json.NewDecoder(os.Stdin).Decode(&request)
	json.NewEncoder(os.Stdout).Encode(map[string]any{"success": true, "output": map[string]any{
		"name": request.Input.Name, "length": measure.Measure(request.Input.Name)}})
}
""",
        "f/measure/measure.go": """package measure

import "unicode/utf8"

// Measure counts characters.
func Measure(text string) int { return utf8.RuneCountInString(text) }
""",
    },
}


@pytest.mark.parametrize("files", STDIO.values(), ids=STDIO)
def test_a_stdio_function(files: dict[str, str], write: Write, invoke: Invoke) -> None:
    for path, text in files.items():
        write(path, text)
    response = invoke("f", {"name": "Zoë 🦊"}, request_id="req_of_the_caller")
    assert response.success, response.error
    assert response.output == {"name": "Zoë 🦊", "length": 5}
    assert response.request_id == "req_of_the_caller"


BIG = {
    "python": {
        "f/index.py": "import json, sys\n"
        "request = json.loads(sys.stdin.read())\n"
        "print(json.dumps({'success': True, 'output': request['input']}))\n"
    },
    "node": {
        "f/index.js": "let text = '';\n"
        "process.stdin.setEncoding('utf8').on('data', (chunk) => text += chunk);\n"
        "process.stdin.on('end', () => {\n"
        # Without process.exit(), which loses what the pipe has not taken yet, here as anywhere:
        # https://nodejs.org/api/process.html#a-note-on-process-io
        "  console.log(JSON.stringify({ success: true, output: JSON.parse(text).input }));\n"
        "});\n"
    },
    "deno": {
        "f/main.ts": "const text = await new Response(Deno.stdin.readable).text();\n"
        "console.log(JSON.stringify({ success: true, output: JSON.parse(text).input }));\n"
        "Deno.exit(0);\n",
        "f/deno.json": "{}",
    },
    "bun": {
        "f/index.ts": "const { input } = JSON.parse(await Bun.stdin.text());\n"
        "console.log(JSON.stringify({ success: true, output: input }));\n",
        "f/function.yaml": "runtime: bun\n",
    },
    "python handler": {"f/index.py": "def handler(ctx):\n    return ctx.input\n"},
    "node handler": {"f/index.js": "module.exports = (ctx) => ctx.input;\n"},
    "deno handler": {
        "f/main.ts": "export default (ctx: { input: object }) => ctx.input;\n",
        "f/deno.json": "{}",
    },
    "bun handler": {
        "f/index.ts": "export default (ctx: { input: object }) => ctx.input;\n",
        "f/function.yaml": "runtime: bun\n",
    },
}


@pytest.mark.parametrize("files", BIG.values(), ids=BIG)
def test_two_megabytes_in_and_out(files: dict[str, str], write: Write, invoke: Invoke) -> None:
    for path, text in files.items():
        write(path, text)
    document = {"text": 'aé☕🦊\u2028\u0000\\"' * 100_000, "number": 2**53 - 1, "no": None}
    assert len(json.dumps(document, ensure_ascii=False).encode()) > 2_000_000
    response = invoke("f", document)
    assert response.success, response.error
    arrived = response.output == document  # not in the assertion: two megabytes make a long diff
    assert arrived


def test_an_error_that_is_a_text_with_a_code_and_an_unknown_request_id(
    write: Write, invoke: Invoke
) -> None:
    write(
        "f/index.py",
        "import json, sys\n"
        "print(json.dumps({'request_id': 'unknown', 'success': False,\n"
        "                  'error': 'no such user', 'error_code': 'EXECUTION_ERROR'}))\n"
        "sys.exit(1)\n",
    )
    response = invoke("f", request_id="req_7")
    assert (response.success, response.request_id) == (False, "req_7")
    assert (response.error.code, response.error.message) == ("EXECUTION_ERROR", "no such user")


def test_an_error_without_a_code(write: Write, invoke: Invoke) -> None:
    write(
        "f/index.js",
        "const error = new Error('no such user');\n"
        "console.log(JSON.stringify({ request_id: 'unknown', success: false,\n"
        "  error: { message: error.message, stack: error.stack } }));\n"
        "process.exit(1);\n",
    )
    error = invoke("f").error
    assert (error.code, error.message) == ("FUNCTION_ERROR", "no such user")


def test_a_success_with_exit_code_1_is_a_success(write: Write, invoke: Invoke) -> None:
    write("f/index.py", 'import sys\nprint(\'{"success": true, "output": 1}\')\nsys.exit(1)\n')
    assert invoke("f").output == 1


def test_what_is_printed_before_the_response_is_logged(write: Write, invoke: Invoke) -> None:
    write(
        "f/index.js",
        "console.log('connecting…');\n"
        "console.log('{\"rows\": 3}');\n"
        "console.error('careful');\n"
        "console.log(JSON.stringify({ success: true, output: 'ok' }));\n",
    )
    response = invoke("f")
    assert response.output == "ok"
    messages = [entry.message for entry in response.logs]
    assert {"connecting…", '{"rows": 3}', "careful"} <= set(messages)
    assert messages.index("connecting…") < messages.index('{"rows": 3}')


def test_a_response_over_many_lines(write: Write, invoke: Invoke) -> None:
    write(
        "f/index.py",
        "import json\n"
        "print(json.dumps({'success': True, 'output': {'a': [1, 2]}, 'logs': [\n"
        "    {'level': 'warn', 'message': 'careful', 'data': {'n': 1}}]}, indent=4))\n",
    )
    response = invoke("f")
    assert response.output == {"a": [1, 2]}
    assert [(entry.level, entry.message, entry.data) for entry in response.logs] == [
        ("warn", "careful", {"n": 1})
    ]


def test_a_function_sees_the_whole_context(write: Write, invoke: Invoke) -> None:
    write(
        "f/index.py",
        "import json, sys\n"
        "request = json.load(sys.stdin)\n"
        "print(json.dumps({'success': True, 'output': request}))\n",
    )
    write("f/manifest.yaml", "env:\n  GREETING: Hello\n")
    auth = {"id": "u1", "email": "u@example.com", "role": "admin", "verified": True, "team": "x"}
    request = invoke("f", {"a": 1}, auth=auth, request_id="req_1").output
    assert request["request_id"] == "req_1"
    assert request["function"] == "f"
    assert request["input"] == {"a": 1}
    context = request["context"]
    assert {key: context["auth"][key] for key in auth} == auth
    assert context["env"] == {"GREETING": "Hello"}
    assert {"alyx_url", "internal_token"} <= context.keys()
    assert invoke("f").output["context"].get("auth") is None


def test_uploaded_files_in_node(write: Write, invoke: Invoke) -> None:
    write(
        "f/index.js",
        "const { input } = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
        "const files = (input._files || []).map((file) => ({\n"
        "  filename: file.filename, type: file.content_type, size: file.size,\n"
        "  bytes: [...Buffer.from(file.data, 'base64')] }));\n"
        "console.log(JSON.stringify({ success: true, output: files }));\n",
    )
    upload = FileUpload(
        name="file",
        filename="a b.bin",
        content_type="application/octet-stream",
        size=3,
        data=base64.b64encode(b"\x00\xff\n").decode(),
    )
    assert (
        invoke("f", files=[upload, upload]).output
        == [
            {
                "filename": "a b.bin",
                "type": "application/octet-stream",
                "size": 3,
                "bytes": [0, 255, 10],
            }
        ]
        * 2
    )


HANDLERS: dict[str, dict[str, str]] = {
    "python, async": {
        "f/index.py": "import asyncio\n"
        "async def handler(ctx):\n"
        "    await asyncio.sleep(0)\n"
        "    return {'name': ctx.input['name'], 'caller': ctx.auth['id']}\n"
    },
    "python, input and context": {
        "f/main.py": "def handler(input, ctx):\n"
        "    return dict(name=input['name'], caller=ctx.auth['id'])\n"
    },
    "node, export default async function": {
        "f/index.mjs": "export default async function handler(ctx) {\n"
        "  return { name: ctx.input.name, caller: ctx.auth.id };\n}\n"
    },
    "node, export default arrow in .js": {
        "f/index.js": "export default async (ctx) =>\n"
        "  ({ name: ctx.input.name, caller: ctx.auth.id });\n"
    },
    "node, export default object": {
        "f/index.ts": "export default {\n"
        "  async handler(input: any, ctx: any) {\n"
        "    return { name: input.name, caller: ctx.auth.id };\n  },\n};\n"
    },
    "node, module.exports": {
        "f/index.js": "module.exports = async function (ctx) {\n"
        "  return { name: ctx.input.name, caller: ctx.auth.id };\n};\n"
    },
    "node, exports.handler": {
        "f/index.cjs": "exports.handler = async (ctx) =>\n"
        "  ({ name: ctx.input.name, caller: ctx.auth.id });\n"
    },
    "deno, export default object": {
        "f/mod.ts": "export default {\n"
        "  handler(input: { name: string }, ctx: { auth: { id: string } }) {\n"
        "    return { name: input.name, caller: ctx.auth.id };\n  },\n};\n",
        "f/deno.jsonc": "{ /* nothing */ }",
    },
    "bun, export default function": {
        "f/index.tsx": "export default function handler(ctx: any) {\n"
        "  return { name: ctx.input.name, caller: ctx.auth.id };\n}\n"
    },
    "go": {
        "f/main.go": """package main

import "alyx"

func Handler(ctx *alyx.Context) (any, error) {
	return map[string]any{"name": ctx.Input["name"], "caller": ctx.Auth.ID}, nil
}
"""
    },
}


@pytest.mark.parametrize("files", HANDLERS.values(), ids=HANDLERS)
def test_a_handler_function(files: dict[str, str], write: Write, invoke: Invoke) -> None:
    for path, text in files.items():
        write(path, text)
    response = invoke("f", {"name": "Zoë 🦊"}, auth={"id": "user_1"})
    assert response.success, response.error
    assert response.output == {"name": "Zoë 🦊", "caller": "user_1"}


FORGED = '{"type": "response", "request_id": "req_1", "success": true, "output": "forged"}'

NOISY: dict[str, dict[str, str]] = {
    "python": {
        "f/index.py": f"""
import os, subprocess, sys
print("at import")
def handler(ctx):
    for _ in range(1000):
        print('{FORGED}')
    sys.stdout.write("no newline at the end")
    sys.stdout.flush()
    os.write(1, b'{FORGED}\\n')
    subprocess.run(["echo", '{FORGED}'], check=True)
    return "real"
"""
    },
    "node": {
        "f/index.js": f"""
const {{ execFileSync }} = require('child_process');
console.log('at import');
exports.handler = async () => {{
  for (let i = 0; i < 1000; i++) console.log('{FORGED}');
  process.stdout.write('no newline at the end');
  execFileSync('echo', ['{FORGED}'], {{ stdio: 'inherit' }});
  return 'real';
}};
"""
    },
    "deno": {
        "f/main.ts": f"""
console.log("at import");
export default async () => {{
  for (let i = 0; i < 1000; i++) console.log('{FORGED}');
  await Deno.stdout.write(new TextEncoder().encode("no newline at the end"));
  await new Deno.Command("echo", {{ args: ['{FORGED}'], stdout: "inherit" }}).output();
  return "real";
}};
""",
        "f/deno.json": "{}",
    },
    "bun": {
        "f/index.ts": f"""
console.log("at import");
export default async () => {{
  for (let i = 0; i < 1000; i++) console.log('{FORGED}');
  await Bun.write(Bun.stdout, "no newline at the end");
  await Bun.spawn(["echo", '{FORGED}'], {{ stdout: "inherit" }}).exited;
  return "real";
}};
""",
        "f/function.yaml": "runtime: bun\n",
    },
}


@pytest.mark.parametrize("files", NOISY.values(), ids=NOISY)
def test_what_a_handler_prints_does_not_become_its_response(
    files: dict[str, str], write: Write, invoke: Invoke
) -> None:
    for path, text in files.items():
        write(path, text)
    response = invoke("f", request_id="req_1")
    assert response.success, response.error
    assert response.output == "real"
    messages = [entry.message for entry in response.logs]
    assert "at import" in messages
    assert sum("forged" in message for message in messages) >= 1000


def test_what_a_python_handler_prints_is_in_order_and_outlives_a_kill(
    write: Write, invoke: Invoke
) -> None:
    write(
        "f/index.py",
        "import sys, time\n"
        "def handler(ctx):\n"
        "    print('one')\n"
        "    print('two', file=sys.stderr)\n"
        "    print('three')\n"
        "    time.sleep(60)\n",
    )
    response = invoke("f", timeout=2)
    assert response.error.code == "TIMEOUT"
    assert [entry.message for entry in response.logs] == ["one", "two", "three"]


SUBPROCESSES: dict[str, dict[str, str]] = {
    "python": {
        "f/index.py": "import json, subprocess\n"
        "ran = subprocess.run('echo out; exit 3', shell=True, capture_output=True, text=True)\n"
        "print(json.dumps({'success': True, 'output': [ran.stdout.strip(), ran.returncode]}))\n"
    },
    "node": {
        "f/index.js": "const { spawnSync } = require('child_process');\n"
        "const ran = spawnSync('sh', ['-c', 'echo out; exit 3'], { encoding: 'utf8' });\n"
        "const output = [ran.stdout.trim(), ran.status];\n"
        "console.log(JSON.stringify({ success: true, output }));\n"
    },
    "deno": {
        "f/main.ts": "const args = ['-c', 'echo out; exit 3'];\n"
        "const ran = await new Deno.Command('sh', { args }).output();\n"
        "const output = [new TextDecoder().decode(ran.stdout).trim(), ran.code];\n"
        "console.log(JSON.stringify({ success: true, output }));\n",
        "f/deno.json": "{}",
    },
}


@pytest.mark.parametrize("files", SUBPROCESSES.values(), ids=SUBPROCESSES)
def test_a_function_can_run_other_programs(
    files: dict[str, str], write: Write, invoke: Invoke
) -> None:
    for path, text in files.items():
        write(path, text)
    response = invoke("f")
    assert response.success, response.error
    assert response.output == ["out", 3]


THROWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "python, attributes of the object": (
        "f/index.py",
        "class E(Exception): pass\n"
        "def handler(ctx):\n"
        "    error = E('Email is required')\n"
        "    error.code, error.field = 'VALIDATION_ERROR', 'email'\n"
        "    raise error\n",
        {"code": "VALIDATION_ERROR", "message": "Email is required", "details": {"field": "email"}},
    ),
    "node, a plain object": (
        "f/index.js",
        "module.exports = () => {\n"
        "  throw { code: 'VALIDATION_ERROR', message: 'Email is required', field: 'email' };\n};\n",
        {"code": "VALIDATION_ERROR", "message": "Email is required", "details": {"field": "email"}},
    ),
    "node, an Error": (
        "f/index.js",
        "module.exports = async () => { throw new TypeError('oh no'); };\n",
        {"code": "FUNCTION_ERROR", "message": "oh no", "details": {}},
    ),
    "go, an error": (
        "f/main.go",
        'package main\n\nimport (\n\t"errors"\n\n\t"alyx"\n)\n\n'
        "func Handler(ctx *alyx.Context) (any, error) {\n"
        '\treturn nil, errors.New("oh no")\n}\n',
        {"code": "FUNCTION_ERROR", "message": "oh no", "details": {}},
    ),
}


@pytest.mark.parametrize(("path", "text", "error"), THROWN.values(), ids=THROWN)
def test_what_a_handler_throws_is_the_error(
    path: str, text: str, error: dict[str, Any], write: Write, invoke: Invoke
) -> None:
    write(path, text)
    response = invoke("f")
    assert not response.success
    assert response.error.to_dict() == error
