"""The API page: Swagger UI over `/openapi.json`. Nothing is loaded from another server."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandbox.server.service import Service

# Scripts and styles are files of this server; the page itself has none. `data:` is for the icons in
# Swagger UI's style sheet.
POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "connect-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:"
)
# `start.js` is ours. scripts/swagger-ui fetches the others from the npm package swagger-ui-dist.
ASSETS: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}
_CACHED: Final = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Alyx Sandbox</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="page"><noscript>This page needs JavaScript. The document is at
<a href="openapi.json">openapi.json</a>.</noscript></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""


async def show(_: Request, _service: Service) -> Response:
    """`GET /docs`."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": POLICY})


async def asset(request: Request, _: Service) -> Response:
    """`GET /docs/{file}`."""
    name = request.path_params["file"]
    if name not in ASSETS:
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is nothing at this path")
    return Response(_content(name), media_type=ASSETS[name], headers=_CACHED)


@cache
def _content(name: str) -> bytes:
    return resources.files("sandbox.server.http").joinpath("swagger_ui", name).read_bytes()
