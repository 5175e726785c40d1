"""Hot reload under load, in one process, with real containers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox import Sandbox, Settings
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sandbox.deploy.reload_events import WatchEvent
    from sandbox.engine.docker.engine import DockerEngine

EDITS = 100
CALLERS = 2


def source(version: int) -> str:
    """A handler that takes its time, and then looks at its own code."""
    return (
        "import time\n"
        "def handler(ctx):\n"
        "    time.sleep(0.03)\n"
        f"    return [{version}, open('/function/index.py').read()]\n"
    )


@dataclass(frozen=True)
class Answer:
    """What one invocation said, and what had been saved and served meanwhile."""

    version: int
    code: str
    saved_before: int
    saved_after: int
    served_after: int


def test_a_hundred_edits_under_load_fail_no_invocation(
    store: Path, functions: Path, tmp_path: Path, write: Callable[..., None], engine: DockerEngine
) -> None:
    """Each answer is of the last edit or, until that is served, of the one before it."""
    write("edited/index.py", source(0))
    settings = Settings.model_validate({"store": store, "pool": {"max_warm": 2}})
    saved = 0
    served = -1
    failures: list[Any] = []
    seen: list[list[Answer]] = [[] for _ in range(CALLERS)]
    stop = threading.Event()

    def reloaded(event: WatchEvent) -> None:
        nonlocal served
        failures.extend(getattr(event, "problems", (event,)))
        served += 1

    with (
        Sandbox(functions, settings=settings, engine=engine) as sandbox,
        sandbox.hot_reload(on_event=reloaded),
    ):

        def call(answers: list[Answer]) -> None:
            while not stop.is_set():
                before = saved
                response = sandbox.invoke("edited")
                if not response.success:
                    failures.append(response)
                    return
                answers.append(Answer(*response.output, before, saved, served))

        def save(version: int) -> None:
            """As editors do: all at once, so that no half of it is ever there."""
            nonlocal saved
            (tmp_path / "saved.py").write_text(source(version))
            saved = version
            (tmp_path / "saved.py").replace(functions / "edited/index.py")

        with ThreadPoolExecutor(CALLERS) as threads:
            calling = []
            try:
                wait_until(lambda: served == 0 or failures)
                calling = [threads.submit(call, answers) for answers in seen]
                for version in range(1, EDITS + 1):
                    save(version)
                    # An author looks at what was saved before the next edit. How many there are
                    # in a second is up to the containers that boot meanwhile.
                    wait_until(lambda version=version: served == version or failures)
                    assert failures == []
                wait_until(lambda: failures or all(it and it[-1].version == EDITS for it in seen))
            finally:
                stop.set()
            for future in calling:
                future.result(timeout=60)
    assert failures == []
    assert served == EDITS  # one reload for each edit
    for answers in seen:
        assert answers[-1].version == EDITS
        for answer in answers:
            assert answer.saved_before - 1 <= answer.version <= answer.saved_after, answer
            assert answer.code == source(answer.version)
    # Some had begun when their version was replaced, and ended on it.
    assert any(answer.version < answer.served_after for answers in seen for answer in answers)
