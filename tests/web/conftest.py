"""One Chromium for all tests of pages, and one server for those that don't stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.system.server_process import ServerProcess
from tests.web.browser import CHROMIUM, PATIENCE, CustomerSite, Operator, open_browser, running_server, running_site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def site() -> Iterator[CustomerSite]:
    with running_site() as site:
        yield site


@pytest.fixture(scope="session")
def server(browser: Browser, site: CustomerSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that no test stops."""
    with running_server(tmp_path_factory.mktemp("web") / "data", site) as server:
        yield server


@pytest.fixture
def operator(server: ServerProcess) -> Iterator[Operator]:
    operator = Operator(server)
    yield operator
    operator.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor's browser, with nothing stored. Any error of a script fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en")
    context.set_default_timeout(PATIENCE * 1000)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
    assert errors == []


@pytest.fixture
def page(context: BrowserContext, site: CustomerSite, server: ServerProcess) -> Page:
    """A page of the customer's site with the widget."""
    site.headers.clear()
    site.put(server.url)
    page = context.new_page()
    page.goto(site.url)
    return page
