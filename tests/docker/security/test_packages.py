"""Popular packages, native code in them included, work behind the filter and under the limits.

The control of the whole battery: what is denied there is not what honest functions need.
"""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.functions.discovery import function_from_path
from sandbox.images.image_recipes import reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.docker.security.conftest import Arena

PYTHON = (
    "numpy==2.4.6", "pandas==3.1.1", "pillow==13.0.0", "requests==2.34.2", "cryptography==50.0.2",
)  # fmt: skip
NODE = ("sharp@0.35.5", "express@5.3.0", "bcrypt@6.0.0")
INSTALL = {
    "python": ("pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--target=/out"),
    "node": ("npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix=/out"),
}  # fmt: skip
# Importing pandas takes longer than a small function's boot may.
SETTINGS = {"limits": {"boot": "60s"}}
MANIFEST = "memory: 512mb\ntimeout: 60s\n"

INDEX_PY = """
import io, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy, pandas, requests
from PIL import Image
from cryptography.fernet import Fernet

class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

def handler(ctx):
    matrix = numpy.arange(90_000, dtype=float).reshape(300, 300)
    frame = pandas.DataFrame({"key": ["a", "b", "a"], "value": [1, 2, 3]})
    image = io.BytesIO()
    Image.new("RGB", (64, 64), "red").resize((32, 32)).save(image, "PNG")
    server = HTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fernet = Fernet(Fernet.generate_key())
    return {
        "numpy": float((matrix @ matrix.T)[0, 0]) == float((matrix[0] ** 2).sum()),
        "pandas": frame.groupby("key")["value"].sum().to_dict(),
        "pillow": image.getvalue()[:4] == b"\\x89PNG",
        "requests": requests.get(f"http://127.0.0.1:{server.server_port}/", timeout=10).text,
        "cryptography": fernet.decrypt(fernet.encrypt(b"x")).decode(),
    }
"""
INDEX_MJS = """
import bcrypt from "bcrypt";
import express from "express";
import sharp from "sharp";

export default async function handler(ctx) {
  const app = express().get("/", (request, response) => response.json({ hello: "world" }));
  const server = await new Promise((done) => { const s = app.listen(0, "127.0.0.1", () => done(s)); });
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/`);
  const png = await sharp({ create: { width: 64, height: 64, channels: 3, background: "red" } }).resize(32).png().toBuffer();
  const result = {
    express: await answer.json(),
    sharp: (await sharp(png).metadata()).width,
    bcrypt: await bcrypt.compare("secret", await bcrypt.hash("secret", 4)),
  };
  server.closeAllConnections();
  server.close();
  return result;
}
"""


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest) -> Callable[[str, tuple[str, ...]], Path]:
    """A directory with these packages; it is kept between runs, in pytest's own cache."""
    assert request.config.cache is not None
    cache = request.config.cache.mkdir("packages")

    def install(client: str, packages: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(" ".join((*INSTALL[client], *packages)).encode()).hexdigest()
        directory = cache / f"{client}-{digest[:16]}"
        if not (directory / "complete").exists():
            directory.mkdir(exist_ok=True)
            # In the image that the others are made with: it has both clients, for the same system.
            finished = subprocess.run(
                ["docker", "run", "--rm", f"--volume={directory}:/out", reference("toolbox"),
                 *INSTALL[client], *packages],
                capture_output=True, text=True, timeout=280,
            )  # fmt: skip
            assert finished.returncode == 0, finished.stderr
            (directory / "complete").touch()
        return directory

    return install


def function_of(directory: Path, name: str, code: str, *, manifest: str = MANIFEST) -> Any:
    for file, text in {name: code, "function.yaml": manifest}.items():
        (directory / file).write_text(text)
    function, problems = function_from_path(directory)
    assert function is not None, problems
    return function


# Compiled packages count on a C++ library, as manylinux has it (PEP 600).


def test_python_packages_work(
    arena: Arena, installed: Callable[[str, tuple[str, ...]], Path]
) -> None:
    function = function_of(installed("python", PYTHON), "index.py", INDEX_PY)
    assert arena.run(function, settings=SETTINGS).output == {
        "numpy": True,
        "pandas": {"a": 4, "b": 2},
        "pillow": True,
        "requests": "hello",
        "cryptography": "x",
    }


def test_node_packages_work(
    arena: Arena, installed: Callable[[str, tuple[str, ...]], Path]
) -> None:
    function = function_of(installed("node", NODE), "index.mjs", INDEX_MJS)
    assert arena.run(function, settings=SETTINGS).output == {
        "express": {"hello": "world"},
        "sharp": 32,
        "bcrypt": True,
    }


@pytest.mark.parametrize("runtime", ["bun", "deno"])
def test_node_packages_work_in_its_relatives(
    crun: Arena, installed: Callable[[str, tuple[str, ...]], Path], runtime: str
) -> None:
    manifest = f"{MANIFEST}runtime: {runtime}\nentrypoint: index.mjs\n"
    function = function_of(installed("node", NODE), "index.mjs", INDEX_MJS, manifest=manifest)
    assert crun.run(function, settings=SETTINGS).output["sharp"] == 32


def test_a_native_add_on_is_what_is_loaded(
    crun: Arena, installed: Callable[[str, tuple[str, ...]], Path]
) -> None:
    """The control: these packages bring machine code, which nothing else here does."""
    assert list(installed("node", NODE).rglob("sharp-linux-x64*.node"))
    assert list(installed("python", PYTHON).rglob("_multiarray_umath*.so"))
