"""Functions in a directory, and a Sandbox that runs them on the fake engine."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox import Sandbox, Settings
from sandbox.engine.base import ContainerSpec
from sandbox.images.image_recipes import reference
from sandbox.protocol.report import NONCE_VARIABLE
from sandbox.runtimes import FUNCTION_DIR, INIT
from sandbox.store.owners import LABEL_FUNCTION
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox.testing import FakeEngine

HANDLER = "def handler(ctx): ...\n"
SCRIPT = "import sys; sys.stdin\n"


@dataclass(frozen=True)
class Directory:
    """A functions directory, `path`, and a store beside it."""

    path: Path
    store: Path

    def write(
        self,
        name: str,
        manifest: str = "",
        *,
        stdio: bool = False,
        files: dict[str, str] | None = None,
    ) -> None:
        """Write a Python function, which the fake engine never reads."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        content = {"index.py": SCRIPT if stdio else HANDLER, **(files or {})}
        if manifest:
            content["function.yaml"] = manifest
        for file, text in content.items():
            (folder / file).write_text(text)

    def settings(self, **values: Any) -> Settings:
        return Settings.model_validate({"store": self.store, **values})

    @contextmanager
    def sandbox(
        self, engine: FakeEngine, /, *, warm: bool = False, **values: Any
    ) -> Iterator[Sandbox]:
        """A sandbox with these settings; when it is left, no container is there."""
        with Sandbox(
            self.path, settings=self.settings(**values), engine=engine, warm=warm
        ) as sandbox:
            yield sandbox
        assert engine.unreachable or engine.containers({}) == []


def spec(**changes: Any) -> ContainerSpec:
    """A handler's container, as a sandbox would have it made."""
    values: dict[str, Any] = {
        "image": reference("python"), "command": (INIT, "--handler", "python3", "f.py"),
        "working_dir": str(FUNCTION_DIR), "env": {NONCE_VARIABLE: "n"}, "uid": 1, "gid": 1,
        "mounts": (), "memory": 1, "cpu": 1.0, "pids": 1, "tmp": 1, "shm": 1, "open_files": 1,
        "file_size": 1, "seccomp": "", "masked_paths": (), "read_only_paths": (),
        "runtime_class": "crun", "labels": {LABEL_FUNCTION: "f"},
    }  # fmt: skip
    return ContainerSpec(**values | changes)


def directory(tmp_path: Path) -> Directory:
    """An empty one."""
    (tmp_path / "functions").mkdir()
    return Directory(tmp_path / "functions", tmp_path / "store")


def ready(sandbox: Sandbox, name: str) -> int:
    """How many containers of a function wait for a request."""
    count = sandbox.pool_states().get(name, {}).get("ready", 0)
    assert isinstance(count, int)
    return count


def wait_for_ready(sandbox: Sandbox, name: str, count: int = 1) -> None:
    """Wait until so many containers wait for a request."""
    wait_until(lambda: ready(sandbox, name) == count, message=sandbox.pool_states)
