"""Hot reload under load, and the second start of a project: in one process, with real containers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sandbox_cli.companions import prepare

from sandbox import Sandbox, Settings
from sandbox.engine.docker import DockerEngine
from sandbox.watcher import Watcher
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.engine.base import ContainerSpec

EDITS = 100
CALLERS = 3


def source(version: int) -> str:
    return f"def handler(ctx):\n    return {version}\n"


def test_a_hundred_edits_under_load_fail_no_invocation(
    store: Path, functions: Path, write: Callable[..., None], engine: DockerEngine
) -> None:
    """Each answer is of a version that was saved by then, and never older than one before it."""
    write("edited/index.py", source(0))
    settings = Settings.model_validate({"store": store, "pool": {"max_warm": 3}})
    saved = 0
    failures: list[Any] = []
    seen: list[list[tuple[int, int]]] = [[] for _ in range(CALLERS)]
    stop = threading.Event()

    with Sandbox(functions, settings=settings, engine=engine) as sandbox:
        watcher = Watcher(
            sandbox, functions, stop=stop, prepare=lambda it: prepare(sandbox, it, {})
        )
        served: list[int] = []

        def watch() -> None:
            for event in watcher.events():
                failures.extend(getattr(event, "problems", ()))
                served.append(saved)

        def call(answers: list[tuple[int, int]]) -> None:
            while not stop.is_set():
                response = sandbox.invoke("edited")
                if not response.success:
                    failures.append(response)
                    return
                answers.append((response.output, saved))

        with ThreadPoolExecutor(CALLERS + 1) as threads:
            watching = threads.submit(watch)
            try:
                wait_until(lambda: served)
                calling = [threads.submit(call, answers) for answers in seen]
                for version in range(1, EDITS + 1):
                    before = len(served)
                    write("edited/index.py", source(version))
                    saved = version
                    # Editors save faster than a version boots; but not all of them at once.
                    wait_until(lambda before=before: len(served) > before or failures)
                    assert failures == []
                wait_until(lambda: failures or all(it and it[-1][0] == EDITS for it in seen))
            finally:
                stop.set()
            for future in (watching, *calling):
                future.result(timeout=60)
    assert failures == []
    for answers in seen:
        versions = [version for version, _ in answers]
        assert all(version <= at_most for version, at_most in answers)
        assert versions == sorted(versions)
        assert versions[-1] == EDITS


class Counting(DockerEngine):
    """A real engine that counts the containers it is asked for."""

    created = 0

    def create(self, spec: ContainerSpec) -> Any:
        self.created += 1
        return super().create(spec)


def test_a_second_start_builds_nothing(
    store: Path, functions: Path, write: Callable[..., None]
) -> None:
    """Twenty functions, one of which is compiled: what was built is there."""
    for number in range(19):
        write(f"f{number}/index.py", source(number))
    write(
        "compiled/main.go",
        'package function\n\nimport "alyx"\n\n'
        "func Handler(ctx *alyx.Context) (any, error) { return 19, nil }\n",
    )
    settings = Settings.model_validate({"store": store, "pool": {"min_warm": 0}})
    versions: list[dict[str, str]] = []
    counts = []
    for _ in range(2):
        engine = Counting()
        with Sandbox(functions, settings=settings, engine=engine) as sandbox:
            versions.append({name: sandbox.build(name) for name in sandbox.functions})
            counts.append(engine.created)
            assert sandbox.problems == ()
        engine.close()
    assert len(versions[0]) == 20
    assert versions[0] == versions[1]
    assert counts[0] >= 1  # the control: the first start has compiled
    assert counts[1] == 0
