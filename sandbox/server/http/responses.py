"""A function's response as JSON, for HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

if TYPE_CHECKING:
    from sandbox.models import FunctionResponse

JSON: Final = "application/json"
# More log entries are encoded by a thread: that could hold up other requests.
_FEW_ENTRIES: Final = 128


async def encode(response: FunctionResponse) -> str:
    """The response document as JSON, on one line."""
    if len(response.logs) <= _FEW_ENTRIES:
        return response.to_json()
    return await asyncio.to_thread(response.to_json)


async def http_response(response: FunctionResponse, status: int) -> Response:
    """The HTTP response whose body is the response document."""
    return Response(await encode(response), status, media_type=JSON)
