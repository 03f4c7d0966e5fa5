"""A customer's site, an operator and a Chromium for tests of the pages."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Browser, BrowserType, Locator, Page, expect, sync_playwright

from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from tests.system.server_process import SECRET, ServerProcess

__all__ = [
    "CHROMIUM",
    "PATIENCE",
    "CustomerSite",
    "Operator",
    "Widget",
    "eventually",
    "launch",
    "open_browser",
    "running_server",
    "running_site",
]

CHROMIUM: Final = shutil.which("chromium") or shutil.which("google-chrome")

PATIENCE: Final = 60.0
"""Seconds that a test waits for something on a busy machine."""


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:  # Any: whatever is true or false
    """Wait until the condition is true. It is asked again and again, which also lets Playwright handle its events."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def launch(chromium: BrowserType, ignored_arguments: Sequence[str] = ()) -> Browser:
    """Start a headless Chromium. `ignored_arguments` are not passed on, though Playwright would."""
    # Pages of shop.test are not secure contexts, as those of any site without https; pages of 127.0.0.1 are.
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP shop.test 127.0.0.1"]
    return chromium.launch(
        executable_path=CHROMIUM, args=arguments, ignore_default_args=list(ignored_arguments) or None
    )


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Run a headless Chromium inside the block. `expect` waits for `PATIENCE`."""
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        try:
            yield browser
        finally:
            browser.close()


class CustomerSite:
    """A shop's pages on a port of their own. `pages` maps paths to HTML, `headers` are sent with each page."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = site.pages.get(self.path.partition("?")[0])
                self.send_response(200 if page is not None else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.insecure_url = f"http://shop.test:{self.server.server_port}"

    def put(
        self, server: str, attributes: str = "", *, path: str = "/", body: str = "<h1>Lamps</h1>", head: str = ""
    ) -> None:
        """Make a page with the tag of the chat at `server`."""
        self.pages[path] = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>Shop</title>{head}<body>{body}"
            f'<script async src="{server}/widget.js" {attributes}></script></body></html>'
        )


@contextmanager
def running_site() -> Iterator[CustomerSite]:
    """Serve a customer's site inside the block."""
    site = CustomerSite()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()


@contextmanager
def running_server(folder: Path, site: CustomerSite, extra: Mapping[str, str] | None = None) -> Iterator[ServerProcess]:
    """Run `actorchat serve` inside the block, for the pages of `site`."""
    server = ServerProcess(folder, extra={"ACTORCHAT_ORIGINS": f"{site.url},{site.insecure_url}", **(extra or {})})
    try:
        server.start()
        yield server
    finally:
        server.close()


class Operator:
    """An operator who uses the HTTP API."""

    def __init__(self, server: ServerProcess, number: int = 1, first: str = "Olga", last: str = "Marsh") -> None:
        user = User(number, Role.OPERATOR, firstname=first, lastname=last)
        self.token = Tokens(SECRET).issue(user, ("lk", "ru"), 3600)
        self.id = number
        self._server = server
        self._client = httpx.Client(headers={"Authorization": f"Bearer {self.token}"}, timeout=PATIENCE)

    def token_of_user(self, number: int, first: str, last: str = "") -> str:
        """Return a token as the site's backend makes it for one of its users."""
        return Tokens(SECRET).issue(User(number, Role.USER, firstname=first, lastname=last), (), 3600)

    def call(self, method: str, path: str, **body: object) -> Any:  # Any: decoded JSON
        answer = self._client.request(method, f"{self._server.url}/api{path}", json=body or None)
        answer.raise_for_status()
        return answer.json()

    def newest_chat(self) -> str:
        """Return the uuid of the chat that was active last; wait for the first one."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = self.call("GET", "/chats")
            return bool(found)

        eventually(look)
        return str(found[0]["uuid"])

    def say(self, chat: str, text: str, attachments: tuple[str, ...] = ()) -> Any:
        return self.call("POST", f"/chats/{chat}/messages", text=text, attachments=attachments)

    def edit(self, message: Any, text: str) -> None:  # Any: a message as decoded JSON
        self.call("PATCH", f"/messages/{message['id']}", text=text)

    def remove(self, message: Any) -> None:  # Any: a message as decoded JSON
        self.call("DELETE", f"/messages/{message['id']}")

    def note(self, chat: str, text: str) -> None:
        self.call("POST", f"/chats/{chat}/messages", text=text, type="system", type_role="operator")

    def upload(self, name: str, data: bytes) -> str:
        answer = self._client.post(f"{self._server.url}/api/attachments", files={"file": (name, data)})
        answer.raise_for_status()
        return str(answer.json()["uuid"])

    def texts(self, chat: str) -> list[str]:
        """The texts of the standard messages as the server has them."""
        messages = self.call("GET", f"/chats/{chat}/messages?limit=200")["messages"]
        return [message["text"] for message in messages if message["type"] == "standard"]

    def close(self) -> None:
        self._client.close()


class Widget:
    """The widget on a page: in the corner, or in the element that `host` selects."""

    def __init__(self, page: Page, host: str = "actorchat-host") -> None:
        self.page = page
        page.set_default_timeout(PATIENCE * 1000)
        self.host = page.locator(host)
        self.launcher = self.host.locator(".fab")
        self.panel = self.host.locator(".panel")
        self.field = self.host.locator("textarea")
        self.log = self.host.locator(".log")
        self.stored = self.host.locator(".g:not(:has(.clock)):not(.fail) .bub")
        self.failed = self.host.locator(".g.fail")
        self.waiting = self.host.locator(".g:has(.clock)")
        self.bar = self.host.locator(".bar")

    def open(self) -> None:
        self.launcher.click()
        self.panel.wait_for()

    def send(self, text: str) -> None:
        self.field.fill(text)
        self.field.press("Enter")

    def scroll_up(self, pixels: int) -> None:
        """Scroll the log so far from its end, and wait until the widget has noticed."""
        # The log grows upwards: 0 is its end. Events of scrolling come with the next frame.
        self.log.evaluate(
            """(e, top) => new Promise(done => {
                e.scrollTo({top})
                requestAnimationFrame(() => requestAnimationFrame(() => done()))
            })""",
            -pixels,
        )

    def wait_for_texts(self, texts: Sequence[str]) -> None:
        """Wait until exactly these are the texts of the stored messages on the page."""
        expect(self.stored.locator(".t")).to_have_text(list(texts), use_inner_text=True)

    def wait_for(self, text: str) -> Locator:
        bubble = self.stored.filter(has_text=text)
        bubble.first.wait_for()
        return bubble
