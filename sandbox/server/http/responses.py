"""A function's response as JSON for HTTP; a long log is written down by a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

if TYPE_CHECKING:
    from sandbox.models import FunctionResponse

JSON: Final = "application/json"
# So many log entries take no time that other requests would notice.
_FEW_ENTRIES: Final = 128


async def written(response: FunctionResponse) -> str:
    """The response document, on one line."""
    if len(response.logs) <= _FEW_ENTRIES:
        return response.to_json()
    return await asyncio.to_thread(response.to_json)


async def document(response: FunctionResponse, status: int) -> Response:
    """The answer that is the response document."""
    return Response(await written(response), status, media_type=JSON)
