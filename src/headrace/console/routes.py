"""`/console`: the files of the operator's pages.

Owns the serving of the static files in `page`. Whoever opens them sees nothing yet: the pages ask for an API key, keep
it for the browser's session, and read everything over the public API with it. They load nothing from elsewhere and run
no inline script, so that a hostile text in a job can do no harm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from litestar import Response, Router, get
from litestar.exceptions import NotFoundException

_DIRECTORY: Final = Path(__file__).parent / "page"
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def console_routes(opt: dict[str, Any]) -> Router:
    """Return the routes, read once; `opt` says who may fetch the files."""
    files = {path.name: path.read_bytes() for path in _DIRECTORY.iterdir() if path.suffix in _TYPES}

    @get("/console", include_in_schema=False, sync_to_thread=False)
    def index() -> Response[bytes]:
        return _file(files, "index.html")

    @get("/console/{name:str}", include_in_schema=False, sync_to_thread=False)
    def asset(name: str) -> Response[bytes]:
        return _file(files, name)

    return Router(path="/", route_handlers=[index, asset], opt=opt)


def _file(files: dict[str, bytes], name: str) -> Response[bytes]:
    if name not in files:
        raise NotFoundException
    return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)
