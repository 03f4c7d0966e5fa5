"""Defines the routes of the browser's side: pages of every site may load them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.http.problems import Problem
from actorchat.web.assets import Asset, Assets
from actorchat.web.pages import Pages

__all__ = ["public_paths", "web_routes"]

_AT_THE_ROOT = ("widget.js", "sdk.js", "sdk.d.ts", "desk.js", "desk.d.ts")
_PAGES = ("/", "/console")

_FOR_EVERY_SITE = {
    # A module from another origin, and a script with an integrity attribute, are only run with these headers.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


def web_routes(assets: Assets, pages: Pages) -> list[Route]:
    """Return the routes of the demo page, the console, the widget's tag, the SDK and the files that they load."""

    async def file(request: Request) -> Response:
        name: str = request.path_params["name"]
        return _found(assets.get(name)).respond(request, _FOR_EVERY_SITE)

    def at_the_root(name: str) -> Route:
        async def answer(request: Request) -> Response:
            return _found(assets.get(name)).respond(request, _FOR_EVERY_SITE)

        return Route(f"/{name}", answer)

    async def demo(request: Request) -> Response:
        return _page(pages.demo(request))

    async def console(request: Request) -> Response:
        return _page(pages.console(request))

    return [
        Route("/", demo),
        Route("/console", console),
        *map(at_the_root, _AT_THE_ROOT),
        Route("/web/{name}", file),
    ]


def public_paths(path: str) -> bool:
    """Return whether `path` is one of `web_routes`, which pages of every origin may read: they contain no data."""
    return path in _PAGES or path.startswith("/web/") or path.removeprefix("/") in _AT_THE_ROOT


def _page(page: Response | None) -> Response:
    if page is None:
        raise Problem("not_found", "there is no resource at this path")
    return page


def _found(asset: Asset | None) -> Asset:
    if asset is None:
        raise Problem("not_found", "there is no such file; it may belong to another version of the server")
    return asset
