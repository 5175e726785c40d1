"""The server's own state: health, readiness, metrics."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from sandbox.errors import SandboxError
from sandbox.images.catalog import require
from sandbox.images.image_recipes import reference
from sandbox.runtimes import RUNTIMES

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandbox.server.auth.callers import Caller
    from sandbox.server.service import Service


async def healthz(_: Request, _service: Service) -> Response:
    """`GET /healthz`. It answers as long as the event loop runs."""
    return JSONResponse({"status": "ok"})


class Readiness:
    """Whether the server can run functions; `draining` is set when it begins to stop.

    It asks the engine at most once in `interval` seconds, so that probes are no load.
    """

    def __init__(self, *, interval: float = 1.0) -> None:
        self._interval = interval
        self._lock = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._asked_at = float("-inf")
        self._service: Service | None = None
        self.draining = False

    async def answer(self, service: Service) -> Response:
        """The report; 503 if the server cannot run functions."""
        async with self._lock:
            if self._service is not service or time.monotonic() - self._asked_at > self._interval:
                self._answer = await service.working.run(_check, service)
                self._asked_at, self._service = time.monotonic(), service
        problems = [*self._answer["problems"], *(["it is stopping"] if self.draining else [])]
        return JSONResponse(
            self._answer | {"status": "not ready" if problems else "ready", "problems": problems},
            HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK,
        )


async def readyz(request: Request, service: Service) -> Response:
    """`GET /readyz`."""
    readiness: Readiness = request.app.state.readiness
    return await readiness.answer(service)


def _check(service: Service) -> dict[str, Any]:
    """Ask the engine and look for its images. A pool without warm containers is no problem."""
    problems = []
    engine = service.sandbox.engine
    functions = service.sandbox.functions.values()
    try:
        engine.image(reference("base"))  # raises if the engine does not answer
        for runtime in sorted({function.runtime for function in functions}):
            override = service.settings.images.override.get(runtime)
            if override is None:
                require(engine, RUNTIMES[runtime].image)
            elif engine.image(override) is None:
                problems.append(f"the engine has no image {override}")
    except SandboxError as error:
        problems.append(str(error))
    if service.dispatcher.failing:
        problems.append("executions cannot be put on record")
    pools = service.sandbox.pool_states().values()
    return {
        "problems": problems,
        "functions": len(functions),
        "warm": sum(bool(state["ready"]) for state in pools),
    }


async def metrics(_: Request, _caller: Caller, service: Service) -> Response:
    """`GET /metrics`, in the text format of Prometheus."""
    text = await service.working.run(service.metrics.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
