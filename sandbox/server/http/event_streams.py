"""Server-sent events: of an invocation its log and response, of an execution its log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

from sandbox.cancellation import Cancellation
from sandbox.errors import InternalError, SandboxError
from sandbox.models import LogEntry, dump_json
from sandbox.server.http.problems import problem_from_error, subject_of
from sandbox.server.http.responses import encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from sandbox.call import Call
    from sandbox.executions.log_follower import Follower
    from sandbox.executions.model import Execution
    from sandbox.server.service import Service

# Seconds between pings, which keep proxies from closing the connection.
_PING: Final = 15


def event_response(events: AsyncGenerator[ServerSentEvent, None], service: Service) -> Response:
    """A stream of events. It ends if the client does not read for `server.patience`."""
    return EventSourceResponse(
        events,
        ping=_PING,
        send_timeout=service.settings.server.patience,
        headers={"Cache-Control": "no-store"},
    )


def event(name: str, document: Any) -> ServerSentEvent:
    """An event whose data is one line of JSON."""
    return ServerSentEvent(event=name, data=dump_json(document))


async def invocation_events(
    request: Request, service: Service, call: Call
) -> AsyncGenerator[ServerSentEvent, None]:
    """An event `log` for each entry, then `response`; or `error` with a problem document.

    Closing the generator cancels the invocation.
    """
    loop = asyncio.get_running_loop()
    entries: asyncio.Queue[LogEntry | None] = asyncio.Queue()
    cancellation = Cancellation()

    def on_log(entry: LogEntry) -> None:
        loop.call_soon_threadsafe(entries.put_nowait, entry)

    running = asyncio.ensure_future(
        service.invoking.run(
            service.dispatcher.steps(call, on_log=on_log, cancellation=cancellation)
        )
    )
    running.add_done_callback(lambda _: entries.put_nowait(None))
    try:
        while (entry := await entries.get()) is not None:
            yield event("log", entry.to_dict())
        try:
            response = await running
        except SandboxError as error:
            yield _error_event(error, request)
        except Exception:
            yield _error_event(InternalError("a defect of the server"), request)
            raise
        else:
            yield ServerSentEvent(event="response", data=await encode(response))
    finally:
        cancellation.cancel()


async def log_events(
    request: Request,
    service: Service,
    follower: Follower,
    to_document: Callable[[Execution], Any],
) -> AsyncGenerator[ServerSentEvent, None]:
    """An event `log` for each entry, then `execution` when it has ended; or `error`."""
    try:
        while (item := await service.following.run(next, follower, None)) is not None:
            if isinstance(item, LogEntry):
                yield event("log", item.to_dict())
            else:
                yield event("execution", to_document(item))
    except SandboxError as error:
        yield _error_event(error, request)
    finally:
        follower.close()


def _error_event(error: SandboxError, request: Request) -> ServerSentEvent:
    answer = problem_from_error(error, subject_of(request))
    return ServerSentEvent(event="error", data=bytes(answer.body).decode())
