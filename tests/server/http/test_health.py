"""`/healthz` and `/readyz`: whether the process lives, and whether it can serve."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sandbox import Settings
from sandbox.errors import EngineUnavailableError
from sandbox.server.dispatch.threads import Threads
from sandbox.server.http.health import Readiness

if TYPE_CHECKING:
    from collections.abc import Iterator


class Engine:
    """An engine that has images, or cannot be reached; counts how often it is asked."""

    def __init__(self) -> None:
        self.away = False
        self.has_images = True
        self.asked = 0

    def image(self, reference: str) -> object:
        self.asked += 1
        if self.away:
            raise EngineUnavailableError("the engine cannot be reached")
        return object() if self.has_images else None


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def service(engine: Engine) -> Iterator[Any]:
    """What `Readiness` looks at, of a service with one function in an image of the operator's."""
    settings = Settings.model_validate({"images": {"override": {"python": "mine"}}})
    working = Threads("working", 2)
    yield SimpleNamespace(
        settings=settings,
        working=working,
        dispatcher=SimpleNamespace(failing=False),
        sandbox=SimpleNamespace(
            engine=engine,
            functions={"hello": SimpleNamespace(runtime="python")},
            pool_states=lambda: {"hello": {"ready": 1}},
        ),
    )
    working.close()


def ask(readiness: Readiness, *services: Any) -> list[tuple[int, dict[str, Any]]]:
    """The answers, one after the other."""

    async def answers() -> list[Any]:
        return [await readiness.answer(service) for service in services]

    return [(it.status_code, json.loads(it.body)) for it in asyncio.run(answers())]


def test_it_is_ready_with_an_engine_and_its_images(service: Any) -> None:
    ((status, body),) = ask(Readiness(), service)
    assert status == 200
    assert body == {"status": "ready", "problems": [], "functions": 1, "warm": 1}


@pytest.mark.parametrize("trouble", ["engine", "image", "record", "stopping"])
def test_each_reason_for_which_it_is_not_is_named(
    service: Any, engine: Engine, trouble: str
) -> None:
    readiness = Readiness()
    engine.away = trouble == "engine"
    engine.has_images = trouble != "image"
    service.dispatcher.failing = trouble == "record"
    readiness.draining = trouble == "stopping"
    ((status, body),) = ask(readiness, service)
    assert (status, body["status"]) == (503, "not ready")
    (problem,) = body["problems"]
    assert {"engine": "reached", "image": "mine"}.get(trouble, trouble) in problem


def test_probes_are_no_load_on_the_engine(service: Any, engine: Engine) -> None:
    readiness = Readiness(interval=float("inf"))
    ask(readiness, *[service] * 10)
    asked = engine.asked
    assert asked == 2  # whether it answers, and for the image
    # That it stops is told at once, and another service is asked anew.
    readiness.draining = True
    assert ask(readiness, service)[0][0] == 503
    assert engine.asked == asked
    ask(readiness, SimpleNamespace(**vars(service)))
    assert engine.asked == 2 * asked


def test_an_answer_that_is_old_does_not_stand(service: Any, engine: Engine) -> None:
    readiness = Readiness(interval=-1.0)
    assert ask(readiness, service)[0][0] == 200
    engine.away = True
    assert ask(readiness, service)[0][0] == 503
