"""Answers requests for the pages: fills in the server's address, and sets the content security policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from ipaddress import ip_address
from typing import Final

import attrs
from starlette.requests import Request
from starlette.responses import Response

from actorchat.http.base_path import base_path_of
from actorchat.web.assets import Asset, Assets

__all__ = ["Pages"]

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_FIELD: Final = re.compile(r"\{\{([a-z_]+)\}\}")


@attrs.frozen
class Pages:
    """The HTML pages. `source` is the source that the demo page's widget uses.

    `operator_options` returns the options with which an operator on this machine can sign in to `actorchat chat`; only
    clients on this machine see them, because they contain the path of the data folder.
    """

    assets: Assets
    source: str
    operator_options: Callable[[], str]

    def demo(self, request: Request) -> Response | None:
        """Return the demo page, None if it is not part of this package."""
        page = self.assets.get("demo.html")
        if page is None:
            return None
        address = _address(request)
        options = self.operator_options() if _is_local(request) else "--data DIR"
        fields = {
            "url": address,
            "source": self.source,
            "operator_command": f"actorchat chat {address} --operator {options}",
            "tag": f'<script async src="{address}/widget.js" data-source="{self.source}"></script>',
        }
        text = _FIELD.sub(lambda match: escape(fields[match[1]]), page.body.decode())
        return Asset.of("demo.html", text.encode()).respond(request, _page_headers(request))

    def console(self, request: Request) -> Response | None:
        """Return the operators' console, None if it is not part of this package."""
        page = self.assets.get("console.html")
        return None if page is None else page.respond(request, _page_headers(request))


def _address(request: Request) -> str:
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host}{base_path_of(request)}" if _HOST.fullmatch(host) else ""


def _is_local(request: Request) -> bool:
    """Whether the client and the name that it uses for the server are both of this machine."""
    host = request.headers.get("host", "")
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return _is_loopback(request.client.host if request.client else "") and (name == "localhost" or _is_loopback(name))


def _is_loopback(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False


def _page_headers(request: Request) -> dict[str, str]:
    host = request.headers.get("host", "")
    # Some browsers don't count a websocket of the same host as 'self'.
    socket = f" {'wss' if request.url.scheme == 'https' else 'ws'}://{host}" if _HOST.fullmatch(host) else ""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
        f"connect-src 'self'{socket}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    # The page differs by host, scheme and client, so shared caches must not keep it.
    return {
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "same-origin",
        "Vary": "Accept-Encoding, Host",
    }
