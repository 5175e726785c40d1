"""Dependencies and builds, in containers: what comes of honest ones, and what hostile ones get.

Those with "real" in their name take packages from the registries that pip and npm use by
default; all others need nothing but the engine.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Sandbox, Settings
from sandbox.errors import BuildFailedError, Code
from sandbox.store.owners import LABEL_STORE
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.engine.base import Container, ContainerSpec
    from sandbox.engine.docker.engine import DockerEngine

Write = "Callable[..., None]"
Invoke = "Callable[..., FunctionResponse]"


class CountingEngine:
    """The real engine; `specs` are those of the containers that were made."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self.specs: list[ContainerSpec] = []

    def create(self, spec: ContainerSpec) -> Container:
        self.specs.append(spec)
        return self._engine.create(spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def builds(self) -> int:
        """Containers that were made for anything but to serve."""
        return sum(spec.working_dir == "/src" for spec in self.specs)


@pytest.fixture
def counting(engine: DockerEngine) -> CountingEngine:
    return CountingEngine(engine)


@pytest.fixture
def offline(tmp_path: Path) -> Settings:
    """Settings with a store of its own, and no network in builds."""
    return Settings.model_validate({"store": tmp_path / "store", "build": {"network": "none"}})


@pytest.fixture
def sandbox(
    functions: Path, offline: Settings, counting: CountingEngine
) -> Iterator[Callable[..., Sandbox]]:
    """`sandbox()` is another one for the same functions and the same store."""
    opened: list[Sandbox] = []

    def make(**build: object) -> Sandbox:
        settings = offline
        if build:
            values = {"network": "none", **build}
            settings = Settings.model_validate({"store": offline.store, "build": values})
        opened.append(Sandbox(functions, settings=settings, engine=counting, warm=False))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def wheel(path: Path, name: str, code: str) -> Path:
    """A wheel of one module, beside a function's code."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{file},sha256={digest.decode()},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    path.mkdir(parents=True, exist_ok=True)
    target = path / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return target


def npm_package(path: Path, name: str, files: dict[str, str], **fields: object) -> Path:
    """A tarball as npm packs it, beside a function's code."""
    path.mkdir(parents=True, exist_ok=True)
    target = path / f"{name}-1.0.0.tgz"
    package = json.dumps({"name": name, "version": "1.0.0", **fields})
    source = path.parent / f".pack-{name}"
    source.mkdir()
    for file, text in {"package.json": package, **files}.items():
        (source / file).write_text(text)
    with tarfile.open(target, "w:gz") as archive:
        archive.add(source, "package")
    for file in source.iterdir():
        file.unlink()
    source.rmdir()
    return target


# ---------------------------------------------------------------- dependencies


def test_a_dependency_is_importable_and_takes_no_place_of_others(
    write: Write, functions: Path, sandbox: Callable[..., Sandbox], counting: CountingEngine
) -> None:
    """Not of the function's own modules, and not of the standard library's."""
    wheel(functions / "f", "helper", "WHO = 'the dependency'\n")
    wheel(functions / "f", "own", "WHO = 'the dependency'\n")
    wheel(functions / "f", "statistics", "WHO = 'the dependency'\n")
    write("f/requirements.txt", "".join(
        f"./{name}-1.0-py3-none-any.whl\n" for name in ("helper", "own", "statistics")
    ))  # fmt: skip
    write("f/own.py", "WHO = 'the function'\n")
    write("f/index.py", "import helper, own, statistics\n"
        "def handler(ctx):\n"
        "    return [helper.WHO, own.WHO, hasattr(statistics, 'WHO'), helper.__cached__]\n",
    )  # fmt: skip
    response = sandbox().invoke("f")
    assert response.output is not None, response.error
    *who, cached = response.output
    assert who == ["the dependency", "the function", False]
    assert cached.startswith("/function/.alyx/")
    assert counting.builds == 1
    again = sandbox().invoke("f")
    assert again.success
    assert counting.builds == 1, "it was installed already"
    write("f/own.py", "WHO = 'the function, edited'\n")
    assert sandbox().invoke("f").output[1] == "the function, edited"  # type: ignore[index]


def test_functions_that_ask_for_the_same_share_one_installation(
    write: Write, functions: Path, sandbox: Callable[..., Sandbox], counting: CountingEngine
) -> None:
    """Also where their code differs: what is installed does not depend on it."""
    for name in ("a", "b"):
        write(f"{name}/function.yaml", "dependencies: [setuptools]\n")
        write(f"{name}/index.py", f"import setuptools\ndef handler(ctx): return '{name}'\n")
    with_both = sandbox()
    assert [with_both.invoke(name).output for name in "ab"] == ["a", "b"]
    assert counting.builds == 1
    store = with_both.settings.store
    assert store is not None
    shared = list(store.glob("bundles/*/.alyx/**/setuptools/dist.py"))
    assert len(shared) >= 3
    assert len({path.stat().st_ino for path in shared}) == 1


def test_twenty_functions_start_again_without_a_container(
    write: Write, functions: Path, sandbox: Callable[..., Sandbox], counting: CountingEngine
) -> None:
    """Nothing is built, compiled or installed again: all of it is there."""
    write("go/main.go", 'package function\n\nimport "alyx"\n\n'
          "func Handler(ctx *alyx.Context) (any, error) { return 19, nil }\n")  # fmt: skip
    write("p9/index.py", "def handler(ctx): return 9\n")
    for number in range(9):
        write(f"p{number}/function.yaml", "dependencies: [setuptools]\n")
        write(f"p{number}/index.py", f"def handler(ctx): return {number}\n")
        write(f"b{number}/function.yaml", "runtime: node\ninterface: handler\n"
              "build: {command: sh, args: [build.sh], output: dist/index.mjs}\n")  # fmt: skip
        write(f"b{number}/build.sh", "mkdir -p dist && cp index.mjs dist\n")
        write(f"b{number}/index.mjs", "export default () => 'built';\n")
    first = sandbox()
    versions = {name: first.build(name) for name in first.functions}
    assert len(versions) == 20
    assert counting.builds == 3, "of equal functions, one is built"
    second = sandbox()
    assert {name: second.build(name) for name in second.functions} == versions
    assert len(counting.specs) == 3
    assert second.problems == ()
    assert second.invoke("b7").output == "built"


def test_an_installation_that_fails_tells_why_and_is_not_tried_at_once_again(
    write: Write, sandbox: Callable[..., Sandbox], counting: CountingEngine
) -> None:
    write("f/index.py", "def handler(ctx): return 1\n")
    write("f/requirements.txt", "no-such-package-anywhere==1\n")
    failing = sandbox()
    for _ in range(2):
        response = failing.invoke("f")
        assert response.error is not None
        assert response.error.code == Code.BUILD_FAILED
        assert "dependencies" in response.error.message
        assert "no-such-package-anywhere" in str(response.error.details["log"])
    assert counting.builds == 1


def test_requirements_may_name_others_beside_them(
    write: Write, functions: Path, sandbox: Callable[..., Sandbox]
) -> None:
    wheel(functions / "f", "helper", "WHO = 'the dependency'\n")
    write("f/function.yaml", "dependencies: some deps/all.txt\n")
    write("f/some deps/all.txt", "-r own.txt\n")
    write("f/some deps/own.txt", "./helper-1.0-py3-none-any.whl\n")
    write("f/index.py", "import helper\ndef handler(ctx): return helper.WHO\n")
    response = sandbox().invoke("f")
    assert response.output == "the dependency", response.error


# ---------------------------------------------------------------- builds


def test_a_failing_build_is_told_and_the_version_before_goes_on(
    write: Write, sandbox: Callable[..., Sandbox]
) -> None:
    write("f/function.yaml", "runtime: node\ninterface: handler\nentrypoint: dist/out.mjs\n"
          "build: {command: sh, args: [-c, 'sh build.sh'], output: dist}\n")  # fmt: skip
    write("f/build.sh", "mkdir dist\necho 'export default () => 1' > dist/out.mjs\n")
    serving = sandbox()
    assert serving.invoke("f").output == 1
    write("f/build.sh", "echo 'syntax error in line 7'\nexit 3\n")
    serving.reload()
    assert serving.invoke("f").output == 1, "the version before goes on serving"
    response = sandbox().invoke("f")
    assert response.error is not None
    assert response.error.code == Code.BUILD_FAILED
    assert "exit code 3" in response.error.message
    assert response.error.details["log"] == "syntax error in line 7"
    write("f/build.sh", "mkdir dist\necho 'export default () => 2' > dist/out.mjs\n")
    serving.reload()
    assert serving.invoke("f").output == 2


def test_a_build_that_makes_nothing_is_told(write: Write, sandbox: Callable[..., Sandbox]) -> None:
    write("f/function.yaml", "runtime: node\ninterface: handler\nentrypoint: dist/a.js\n"
          "build: {command: sh, args: [-c, 'mkdir dist; touch dist/b.js'], output: dist}\n")  # fmt: skip
    write("g/function.yaml", "runtime: node\nbuild: {command: 'true', output: dist.js}\n")
    write("f/index.js", "")
    write("g/index.js", "")
    both = sandbox()
    with pytest.raises(BuildFailedError, match=r"left no dist/a\.js"):
        both.build("f")
    with pytest.raises(BuildFailedError) as caught:
        both.build("g")
    assert "made no dist.js" in caught.value.log


def test_a_build_replaces_what_its_author_had_built(
    write: Write, sandbox: Callable[..., Sandbox]
) -> None:
    write("f/function.yaml", "runtime: node\ninterface: handler\nentrypoint: dist/a.mjs\n"
          "build: {command: sh, args: [-c, 'rm -r dist; mkdir dist; cp a.mjs dist'], output: dist}\n")  # fmt: skip
    write("f/dist/stale.mjs", "")
    write("f/dist/a.mjs", "export default () => 'stale'\n")
    write("f/a.mjs", "import { readdirSync } from 'node:fs';\n"
          "export default () => readdirSync('/function/dist')\n")  # fmt: skip
    assert sandbox().invoke("f").output == ["a.mjs"]


def test_a_compiled_program_is_built_and_run(write: Write, sandbox: Callable[..., Sandbox]) -> None:
    write("f/function.yaml", "runtime: binary\nentrypoint: bin/f\n"
          "build: {command: go, args: [build, -o, bin/f, .], output: bin/f}\n")  # fmt: skip
    write("f/go.mod", "module f\n\ngo 1.21\n")
    write("f/main.go", 'package main\n\nimport "fmt"\n\n'
          'func main() { fmt.Println(`{"success": true, "output": {"from": "go"}}`) }\n')  # fmt: skip
    response = sandbox().invoke("f")
    assert response.output == {"from": "go"}, response.error


def test_a_process_that_is_killed_during_a_build_leaves_nothing_that_stays(
    write: Write,
    functions: Path,
    sandbox: Callable[..., Sandbox],
    engine: DockerEngine,
    offline: Settings,
) -> None:
    write("f/function.yaml", "runtime: node\ninterface: handler\n"
          "build: {command: sh, args: [build.sh], output: out.mjs}\n")  # fmt: skip
    write("f/build.sh", "sleep 300\n")
    store = offline.store
    assert store is not None
    environment = os.environ | {"SANDBOX_STORE": str(store), "SANDBOX_BUILD__NETWORK": "none"}

    def left() -> list[str]:
        known = (store / "id").read_text() if (store / "id").exists() else "none"
        return [each.state for each in engine.containers({LABEL_STORE: known})]

    with subprocess.Popen(
        [sys.executable, "-m", "sandbox_cli", "build", "--functions", str(functions)],
        env=environment, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: left() == ["running"])
        finally:
            process.kill()
    write("f/build.sh", "echo 'export default () => 1' > out.mjs\n")
    after = sandbox()
    assert after.invoke("f").output == 1
    after.close()
    assert left() == []
    assert len(list((store / "leases").iterdir())) == 1, "this process's own"


# ---------------------------------------------------------------- hostile packages

PROBE = """
import json, os, socket, sys

def attempt(call):
    try:
        return repr(call())
    except OSError as error:
        return error.strerror or str(error)

def fill(directory):
    written = 0
    try:
        for number in range(4096):
            with open(f"{directory}/fill{number}", "wb") as file:
                written += file.write(bytes(1 << 20))
    except OSError:
        pass
    for number in range(4096):
        try:
            os.unlink(f"{directory}/fill{number}")
        except OSError:
            break
    return written >> 20

def fork():
    children = []
    try:
        while len(children) < 2000:
            child = os.fork()
            if child == 0:
                os.read(hold[0], 1)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    os.write(hold[1], bytes(len(children)))
    for child in children:
        os.waitpid(child, 0)
    return len(children)

canary, port, heavy = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "heavy"
hold = os.pipe()
found = {
    "canary": attempt(lambda: open(canary).read()),
    "root": attempt(lambda: os.listdir("/root")),
    "write": attempt(lambda: open("/etc/mark", "w")),
    "write source": attempt(lambda: open("/src/mark", "w")),
    "connect": attempt(lambda: socket.create_connection(("127.0.0.1", port), 2)),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "engine": os.path.exists("/var/run/docker.sock"),
    "uid": os.getuid(),
    "environment": sorted(set(os.environ) & {"BUILD_CANARY", "SANDBOX_NONCE"}),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")],
}
if heavy:
    found["forks"] = fork()
    found["filled"] = fill("/tmp")
json.dump(found, open(sys.argv[4], "w"))
"""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    """A secret of the host's, in a file and in the environment, and a server of the host's."""
    file = tmp_path / "canary"
    file.write_text("hunter2")
    monkeypatch.setenv("BUILD_CANARY", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield file, server.getsockname()[1]


def control(tmp_path: Path, canary: tuple[Path, int]) -> dict[str, Any]:
    """What the same probe finds outside of a container."""
    result = tmp_path / "control.json"
    arguments = [str(canary[0]), str(canary[1]), "light", str(result)]
    subprocess.run([sys.executable, "-c", PROBE, *arguments], check=True)
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def assert_got_nothing(found: dict[str, Any]) -> None:
    assert found["canary"] == "No such file or directory"
    assert found["root"] in ("Permission denied", "No such file or directory")
    assert found["write"] == found["write source"] == "Read-only file system"
    assert found["connect"] == "Connection refused"
    assert found["interfaces"] == ["lo"]
    assert found["engine"] is False
    assert found["uid"] >= 0x7000_0000
    assert found["environment"] == []
    assert set(found["capabilities"]) == {"0" * 16}
    assert 10 < found["forks"] < 512
    assert 10 < found["filled"] <= 128


def test_a_hostile_setup_py_gets_nothing(
    write: Write,
    sandbox: Callable[..., Sandbox],
    canary: tuple[Path, int],
    tmp_path: Path,
) -> None:
    """It runs, as pip runs it, and its package is installed: that is all."""
    outside = control(tmp_path, canary)
    assert "hunter2" in outside["canary"]
    assert "socket" in outside["connect"]
    assert outside["environment"] == ["BUILD_CANARY"]
    write("f/evil/probe.py", PROBE)
    write("f/evil/setup.py", f"""
import os, subprocess, sys
from setuptools import setup
os.makedirs("evil", exist_ok=True)
open("evil/__init__.py", "w").close()
subprocess.run([sys.executable, "probe.py", {str(canary[0])!r}, "{canary[1]}", "heavy",
                "evil/found.json"], check=True)
setup(name="evil", version="1.0", packages=["evil"], package_data={{"evil": ["found.json"]}})
""")  # fmt: skip
    write("f/requirements.txt", "./evil\n")
    write("f/index.py", "import evil, json, os\ndef handler(ctx):\n"
          "    return json.load(open(os.path.dirname(evil.__file__) + '/found.json'))\n")  # fmt: skip
    response = sandbox(tmp="128mb", memory="512mb").invoke("f")
    assert response.output is not None, response.error
    assert_got_nothing(response.output)


def test_a_hostile_postinstall_gets_nothing(
    write: Write, functions: Path, sandbox: Callable[..., Sandbox], canary: tuple[Path, int]
) -> None:
    """In Node, what a script may ask for is tried again: it has no Python to probe with."""
    probe = """
const fs = require("fs"), net = require("net"), os = require("os"), { spawn } = require("child_process");
const attempt = (call) => { try { return String(call()); } catch (error) { return error.code; } };
const found = {
  canary: attempt(() => fs.readFileSync(process.argv[2], "utf8")),
  write: attempt(() => fs.writeFileSync("/etc/mark", "x")),
  source: attempt(() => fs.writeFileSync("/src/mark", "x")),
  environment: Object.keys(process.env).filter((name) => name === "BUILD_CANARY"),
  interfaces: Object.keys(os.networkInterfaces()),
  uid: process.getuid(),
};
let filled = 0;
try { for (; filled < 4096; filled++) fs.writeFileSync(`/tmp/fill${filled}`, Buffer.alloc(1 << 20)); } catch {}
for (let i = 0; i <= filled; i++) fs.rmSync(`/tmp/fill${i}`, { force: true });
found.filled = filled;
const children = [];
let refused = 0;
const failed = () => refused++;
for (let i = 0; i < 600; i++) children.push(spawn("/bin/sleep", ["30"], { stdio: "ignore" }).on("error", failed));
setTimeout(() => {
  found.refused = refused > 0;
  const socket = net.connect(Number(process.argv[3]), "127.0.0.1");
  const done = (what) => { found.connect = what; fs.writeFileSync("found.json", JSON.stringify(found)); process.exit(0); };
  socket.on("error", (error) => done(error.code)).on("connect", () => done("connected"));
}, 2000);
"""
    npm_package(
        functions / "f",
        "evil",
        {"probe.js": probe, "index.js": "module.exports = require('./found.json');"},
        scripts={"postinstall": f"node probe.js {canary[0]} {canary[1]}"},
    )
    write("f/package.json", json.dumps({"dependencies": {"evil": "file:evil-1.0.0.tgz"}}))
    write("f/index.js", "exports.handler = () => require('evil');\n")
    response = sandbox(tmp="128mb", memory="1gb", pids=200).invoke("f")
    found = response.output
    assert found is not None, response.error
    uid, filled = found.pop("uid"), found.pop("filled")
    assert found == {
        "canary": "ENOENT", "write": "EROFS", "source": "EROFS", "environment": [],
        "interfaces": ["lo"], "refused": True, "connect": "ECONNREFUSED",
    }  # fmt: skip
    assert uid >= 0x7000_0000
    assert 10 < filled <= 128


@pytest.mark.parametrize(
    ("script", "limits", "said"),
    [
        ("head -c 20000000 /dev/zero > big", {"output": "8mb"}, "build.output"),
        ("sleep 600", {"timeout": "2s"}, "build.timeout"),
        ("ln -s /etc/passwd out", {}, "leaves the function's directory"),
        ("echo told by the script; exit 9", {}, "told by the script"),
        ("kill -9 -1", {}, "dependencies could not be installed"),
        ("cat /dev/zero > full", {"tmp": "64mb"}, "build.tmp"),
    ],
)
def test_what_a_hostile_script_does_is_reported(  # noqa: PLR0917
    write: Write,
    functions: Path,
    sandbox: Callable[..., Sandbox],
    script: str,
    limits: dict[str, object],
    said: str,
) -> None:
    npm_package(functions / "f", "evil", {"index.js": ""}, scripts={"postinstall": script})
    write("f/package.json", json.dumps({"dependencies": {"evil": "file:evil-1.0.0.tgz"}}))
    write("f/index.js", "exports.handler = () => 1;\n")
    failing = sandbox(**limits)
    response = failing.invoke("f")
    assert response.error is not None
    assert response.error.code == Code.BUILD_FAILED
    told = f"{response.error.message}\n{response.error.details['log']}"
    assert said in told
    failing.close()  # so that it no longer looks for what others left behind
    store = failing.settings.store
    assert store is not None
    assert list((store / "temporary").iterdir()) == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A package index as pip knows it: directories with links."""

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """An empty package index on this machine, and its port."""
    directory = tmp_path / "index"
    directory.mkdir()
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, server.server_port
        server.shutdown()
        thread.join()


def test_an_installation_reaches_its_registry_and_nothing_else(
    write: Write,
    sandbox: Callable[..., Sandbox],
    index: tuple[Path, int],
    canary: tuple[Path, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not another port of the same host, where the host itself gets through; it is logged."""
    directory, port = index
    socket.create_connection(("127.0.0.1", canary[1]), 5).close()
    source = directory.parent / "evil-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"""
import socket
from setuptools import setup

def attempt(address):
    try:
        socket.create_connection(address, 5).close()
        return "connected"
    except OSError as error:
        return error.strerror

try:
    socket.getaddrinfo("collector.example", 443)
except OSError:
    pass
found = {{"registry": attempt(("127.0.0.1", {port})), "other": attempt(("127.0.0.1", {canary[1]})),
         "metadata": attempt(("169.254.169.254", 80)), "bridge": attempt(("172.17.0.1", {port}))}}
open("evil.py", "w").write(f"FOUND = {{found}}\\n")
setup(name="evil", version="1.0", py_modules=["evil"])
""")
    (directory / "simple/evil").mkdir(parents=True)
    with tarfile.open(directory / "simple/evil/evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    write("f/requirements.txt", "evil==1.0\n")
    write("f/index.py", "import evil\ndef handler(ctx): return evil.FOUND\n")
    registries = {"pip": f"http://127.0.0.1:{port}/simple"}
    response = sandbox(network="registries", registries=registries).invoke("f")
    assert response.output == {
        "registry": "connected",
        "other": "Connection refused",
        "metadata": "Network is unreachable",
        "bridge": "Network is unreachable",
    }, response.error
    assert "f: while it was built, it wanted to reach collector.example" in caplog.text


# ---------------------------------------------------------------- real packages

PYTHON = """
import io, numpy, requests
from PIL import Image

def handler(ctx):
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    return [int(numpy.arange(5).sum()), image.getvalue()[1:4].decode(), requests.__name__]
"""
NODE = """
import _ from "lodash";
import sharp from "sharp";
import { z } from "zod";

export default async function handler() {
  const png = await sharp({ create: { width: 8, height: 8, channels: 3, background: "red" } }).png().toBuffer();
  return [_.chunk([1, 2, 3], 2), (await sharp(png).metadata()).width, z.string().parse("z")];
}
"""
SCRIPT = "import chunk from '{}';\nexport default () => chunk([1, 2, 3], 2);\n"
MAIN_TS = """
import { z } from "zod";

enum Colour { Red = 3 }
interface Context { input: { name?: string } }

export default function handler(ctx: Context): object {
  return { colour: Colour.Red, name: z.string().default("World").parse(ctx.input.name) };
}
"""


@pytest.fixture(scope="session")
def online(store: Path) -> Settings:
    return Settings(store=store)


def test_real_packages_work_in_every_runtime(
    write: Write, functions: Path, online: Settings, counting: CountingEngine
) -> None:
    """Native code included; and with what was installed, the same functions need no network."""
    write("py/function.yaml", "memory: 256mb\n")
    write("py/requirements.txt", "numpy==2.4.6\npillow==13.0.0\nrequests==2.34.2\n")
    write("py/index.py", PYTHON)
    write("node/function.yaml", "memory: 256mb\n")
    write("node/package.json", json.dumps(
        {"dependencies": {"lodash": "^4.17", "sharp": "0.35.5", "zod": "^3"}}))  # fmt: skip
    write("node/index.mjs", NODE)
    write("deno/deno.json", "{}")
    write("deno/mod.ts", SCRIPT.format("npm:lodash@4.17/chunk.js"))
    write("bun/function.yaml", "runtime: bun\n")
    write("bun/package.json", json.dumps({"dependencies": {"lodash": "^4.17"}}))
    write("bun/index.ts", SCRIPT.format("lodash/chunk"))
    expected = {
        "py": [10, "PNG", "requests"],
        "node": [[[1, 2], [3]], 8, "z"],
        "deno": [[1, 2], [3]],
        "bun": [[1, 2], [3]],
    }
    with Sandbox(functions, settings=online, engine=counting, warm=False) as first:
        for name, output in expected.items():
            response = first.invoke(name)
            assert response.output == output, (name, response.error)
    made = len(counting.specs)
    cut_off = Settings.model_validate({"store": online.store, "build": {"network": "none"}})
    with Sandbox(functions, settings=cut_off, engine=counting, warm=False) as second:
        for name, output in expected.items():
            assert second.invoke(name).output == output, name
    assert len(counting.specs) == made + len(expected), "nothing but to serve"


def test_a_real_typescript_project_is_built_and_run(
    write: Write, functions: Path, online: Settings, engine: DockerEngine
) -> None:
    """Its compiler is a development dependency: there for the build, and not in the bundle."""
    write("hello-typescript/function.yaml",
          "runtime: node\ninterface: handler\nentrypoint: dist/index.js\n"
          "build: {command: npm, args: [run, build], watch: ['src/**/*.ts'], output: dist}\n")  # fmt: skip
    write("hello-typescript/package.json", json.dumps({
        "name": "hello-typescript", "type": "module", "scripts": {"build": "tsc"},
        "dependencies": {"zod": "^3"}, "devDependencies": {"typescript": "~5.6"}}))  # fmt: skip
    write("hello-typescript/tsconfig.json", json.dumps({"compilerOptions": {
        "target": "es2022", "module": "nodenext", "outDir": "dist", "rootDir": "src",
        "strict": True}, "include": ["src"]}))  # fmt: skip
    write("hello-typescript/src/index.ts", MAIN_TS)
    with Sandbox(functions, settings=online, engine=engine, warm=False) as sandbox:
        response = sandbox.invoke("hello-typescript", {"name": "Ada"})
        assert response.output == {"colour": 3, "name": "Ada"}, response.error
        assert response.stats.version == sandbox.build("hello-typescript")
        bundle = online.store / "bundles" / response.stats.version  # type: ignore[operator]
        assert {path.name for path in (bundle / "node_modules").iterdir()} >= {"zod"}
        assert not (bundle / "node_modules/typescript").exists()
        write("hello-typescript/src/index.ts", MAIN_TS.replace("Red = 3", "Red = 'x' as number"))
        sandbox.reload()
        assert sandbox.invoke("hello-typescript").success, "the version before goes on serving"
        with pytest.raises(BuildFailedError) as caught:
            sandbox.build("hello-typescript")
        assert "src/index.ts" in caught.value.log


# ---------------------------------------------------------------- the command line


def test_build_and_bundles_on_the_command_line(
    write: Write, functions: Path, tmp_path: Path
) -> None:
    environment = os.environ | {
        "SANDBOX_STORE": str(tmp_path / "store"),
        "SANDBOX_FUNCTIONS": str(functions),
        "SANDBOX_BUILD__NETWORK": "none",
    }

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sandbox_cli", *arguments], env=environment, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    write("good/index.py", "def handler(ctx): return 1\n")
    write("bad/index.js", "")
    write("bad/function.yaml", "build: {command: 'false', output: dist.js}\n")
    ended = command("build")
    assert ended.returncode == 1
    assert ended.stdout.startswith("good  ")
    assert "BUILD_FAILED" in ended.stderr
    assert "false" in ended.stderr
    good, bad = (json.loads(command("build", name, "--json").stdout)[0] for name in ("good", "bad"))
    assert (good["success"], bad["success"]) == (True, False)
    (bundle, *_) = json.loads(command("bundles", "list", "--json").stdout)
    assert not bundle["in_use"]
    assert "removed 0" in command("bundles", "prune").stdout
    assert (
        good["version"]
        in json.loads(command("bundles", "prune", "--all", "--json").stdout)["bundles"]
    )
    assert json.loads(command("bundles", "list", "--json").stdout) == []
