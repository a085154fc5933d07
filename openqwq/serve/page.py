"""The web chat's files, each with a policy that lets no other code in."""

import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

STATIC = Path(__file__).with_name("static")
# What a model wrote as HTML or SVG is shown in a frame that runs and loads nothing of it.
PREVIEW_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:;"
    " font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self';"
    " sandbox allow-scripts"
)
NO_PAGE = (
    "<!doctype html><title>OpenQwQ</title><h1>OpenQwQ is running</h1><p>The web chat is not built"
    " here: run <code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>. The API is at"
    " <code>/v1</code>, its document at <code>/openapi.json</code>.</p>"
)


def page_routes(connect: tuple[str, ...], folder: Path = STATIC) -> list[Route]:
    """One route a file of the web chat, each with a policy that lets no other code in."""
    origins = " ".join(("'self'", *connect))
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self';"
        f" img-src 'self' data:; connect-src {origins}; worker-src 'self'; frame-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            files[f"/{file.relative_to(folder).as_posix()}"] = file
    if not files:
        return [Route("/", _no_page, methods=["GET"])]
    if "/index.html" in files:
        files["/"] = files["/index.html"]

    routes: list[Route] = []
    for path, file in files.items():
        own_policy = PREVIEW_POLICY if path == "/preview.html" else policy
        routes.append(_file_route(path, file, own_policy))
    return routes


def _file_route(path: str, file: Path, policy: str) -> Route:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def send(_: Request) -> Response:
        return Response(file.read_bytes(), headers=headers, media_type=kind)

    return Route(path, send, methods=["GET"])


async def _no_page(_: Request) -> Response:
    return HTMLResponse(NO_PAGE)
