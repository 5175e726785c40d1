"""Containers are removed in the end, also where the engine is away for a while or an owner dies."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sandbox import Sandbox, Settings
from sandbox.containers import launcher, reaper
from sandbox.containers.reaper import Reaper
from sandbox.errors import EngineUnavailableError
from sandbox.images.image_recipes import reference
from sandbox.policy.container_spec import Launch, build_spec
from sandbox.store.owners import LABEL_OWNER, LABEL_STORE, store_id
from sandbox.testing import FakeEngine
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "functions/hello").mkdir(parents=True)
    (tmp_path / "functions/hello/index.py").write_text("def handler(ctx): ...")
    return tmp_path / "functions"


def count(engine: FakeEngine) -> int:
    return len(engine.containers({LABEL_OWNER: ""}))


def test_a_removal_that_fails_is_tried_again_until_the_container_is_gone(
    tmp_path: Path, functions: Path
) -> None:
    engine = FakeEngine()
    settings = Settings(store=tmp_path / "store")
    with Sandbox(functions, settings=settings, engine=engine, warm=False) as sandbox:
        engine.failures["remove"] = EngineUnavailableError("away")
        assert sandbox.invoke("hello").success
        assert count(engine) == 1
        del engine.failures["remove"]
        wait_until(lambda: count(engine) == 0)


def test_the_end_waits_for_an_engine_that_comes_back(tmp_path: Path, functions: Path) -> None:
    engine = FakeEngine()
    sandbox = Sandbox(functions, settings=Settings(store=tmp_path / "store"), engine=engine)
    assert sandbox.invoke("hello").success
    engine.failures["remove"] = EngineUnavailableError("away")
    closing = threading.Thread(target=sandbox.close)
    closing.start()
    del engine.failures["remove"]
    closing.join(30)
    assert count(engine) == 0


def test_the_end_names_what_it_leaves_behind(
    tmp_path: Path,
    functions: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(launcher, "_CLOSE_SECONDS", 0.1)
    engine = FakeEngine()
    sandbox = Sandbox(
        functions, settings=Settings(store=tmp_path / "store"), engine=engine, warm=False
    )
    engine.failures["remove"] = EngineUnavailableError("away")
    assert sandbox.invoke("hello").success
    with caplog.at_level(logging.ERROR):
        sandbox.close()
    (left,) = engine.containers({LABEL_OWNER: ""})
    assert f"left behind: {left.id}" in caplog.text


OWNER = """
import sys
from pathlib import Path
from sandbox.store.owners import Owner
print(Owner(Path(sys.argv[1])).id, flush=True)
sys.stdin.read()
"""


def test_what_a_server_leaves_that_dies_meanwhile_is_removed_by_one_that_serves_on(
    tmp_path: Path, functions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "REAP_SECONDS", 0.05)
    store = tmp_path / "store"
    engine = FakeEngine()
    with (
        Sandbox(functions, settings=Settings(store=store), engine=engine) as sandbox,
        subprocess.Popen(
            [sys.executable, "-c", OWNER, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        ) as other,
    ):  # fmt: skip
        assert other.stdout is not None
        labels = {LABEL_OWNER: other.stdout.readline().strip(), LABEL_STORE: store_id(store)}
        assert sandbox.invoke("hello").success
        launch = Launch(image=reference("python"), runtime_class="crun", labels=labels)
        container = engine.create(build_spec(("true",), Settings(), launch, mounts=()))
        # The control: while its owner lives, nobody touches it.
        sweeps = threading.Semaphore(0)
        watching = Reaper(sweeps.release)
        watching.start()
        for _ in range(4):
            assert sweeps.acquire(timeout=10)
        watching.close()
        assert container.id in {item.id for item in engine.containers(labels)}
        other.kill()
        wait_until(lambda: not engine.containers(labels))
