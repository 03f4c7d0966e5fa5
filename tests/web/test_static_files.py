"""The files of the browser's side over HTTP: the demo page, the widget, the SDK."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import actorchat
from actorchat.server.settings import Settings
from actorchat.web import Assets
from actorchat.web.assets import ALWAYS_CHECKED, IMMUTABLE, SHORT
from tests.server.server_under_test import SECRET, run_server

STATIC = Path(actorchat.__file__).parent / "web" / "static"
PANEL = json.loads((STATIC / "manifest.json").read_text())["panel"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(storage="memory://", data=tmp_path, port=0, secret=SECRET, sources=("shop",))
    async with run_server(settings) as api:
        yield api.http


@pytest.mark.parametrize(
    "path", ["/widget.js", "/sdk.js", "/sdk.d.ts", f"/web/{PANEL}", "/desk.js", "/web/manifest.json", "/", "/console"]
)
async def test_pages_of_every_site_load_the_files_but_not_the_api(site: httpx.AsyncClient, path: str) -> None:
    headers = {"Origin": "https://shop.example"}
    answer = await site.get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if path not in ("/", "/console"):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    refused = await site.post("/api/visitors", headers=headers, json={"source": "shop"})
    assert refused.status_code == 403


async def test_a_file_is_compressed_only_for_clients_that_take_it(site: httpx.AsyncClient) -> None:
    plain, brotli = (STATIC / "sdk.js").read_bytes(), (STATIC / "sdk.js.br").read_bytes()
    asked = {
        "gzip, deflate, br, zstd": "br",
        "gzip": "gzip",
        "br;q=0, gzip": "gzip",
        "*": "br",
        "br;q=0, *": "gzip",
        "identity": None,
        "gzip;q=0": None,
        "gzip;q=0, br;q=0.0": None,
    }
    for accepted, coding in asked.items():
        async with site.stream("GET", "/sdk.js", headers={"Accept-Encoding": accepted}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers.get("Content-Encoding") == coding, accepted
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert (gzip.decompress(raw) if coding == "gzip" else raw) == (brotli if coding == "br" else plain)
    # A file without a copy in that coding.
    console = f"/web/{next(STATIC.glob('console-style-*')).name}"
    assert (await site.get(console, headers={"Accept-Encoding": "gzip, br"})).headers["Content-Encoding"] == "gzip"


async def test_a_client_that_has_this_version_gets_304(site: httpx.AsyncClient) -> None:
    etag = (await site.get("/sdk.js")).headers["ETag"]
    for sent in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
        answer = await site.get("/sdk.js", headers={"If-None-Match": sent})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert (await site.get("/sdk.js", headers={"If-None-Match": 'W/"old"'})).status_code == 200


async def test_head_has_the_headers_of_get(site: httpx.AsyncClient) -> None:
    for path in ("/", "/widget.js", f"/web/{PANEL}"):
        head, get = await site.head(path), await site.get(path)
        assert head.content == b""
        same = ("content-type", "content-length", "etag", "cache-control", "content-encoding")
        assert [head.headers.get(name) for name in same] == [get.headers.get(name) for name in same]


async def test_files_with_a_hash_are_kept_for_ever_and_others_are_checked(site: httpx.AsyncClient) -> None:
    paths = {f"/web/{PANEL}": IMMUTABLE, "/widget.js": SHORT, "/sdk.js": SHORT, "/web/manifest.json": ALWAYS_CHECKED}
    for path, rule in paths.items():
        assert (await site.get(path)).headers["Cache-Control"] == rule
    assert (await site.get("/")).headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("path", ["/web/none.js", "/web/%2e%2e/assets.py", "/web/", "/web/../assets.py", "/widget.css"])
async def test_other_paths_are_not_found(site: httpx.AsyncClient, path: str) -> None:
    assert (await site.get(path)).status_code == 404


async def test_the_page_shows_this_servers_address_source_and_policy(site: httpx.AsyncClient) -> None:
    host = site.base_url.netloc.decode()
    page = await site.get("/")
    tag = f"&lt;script async src=&quot;http://{host}/widget.js&quot; data-source=&quot;shop&quot;&gt;&lt;/script&gt;"
    assert tag in page.text
    assert f"actorchat chat http://{host} --operator" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert f"connect-src 'self' ws://{host};" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "{{" not in page.text
    for path in re.findall(r'(?:src|href)="([^":]+)"', page.text):
        assert (await site.get(f"/{path}")).status_code == 200


async def test_the_console_may_load_and_call_only_its_own_server(site: httpx.AsyncClient) -> None:
    host = site.base_url.netloc.decode()
    page = await site.get("/console")
    assert page.headers["Cache-Control"] == "private, no-cache"
    policy = page.headers["Content-Security-Policy"].split("; ")
    assert f"connect-src 'self' ws://{host}" in policy
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "<script>" not in page.text
    files = re.findall(r'(?:src|href)="(web/[^"]+)"', page.text)
    assert len(files) == 3
    for path in files:
        assert (await site.get(f"/{path}")).status_code == 200


@pytest.mark.parametrize("host", ["chat.example", "a;script-src *", '"><script>', ""])
async def test_a_foreign_or_false_host_shows_nothing_of_this_machine(site: httpx.AsyncClient, host: str) -> None:
    page = await site.get("/", headers={"Host": host})
    # A wrong Host may also be refused before it reaches the page.
    if page.status_code == 200:
        assert "--operator --data DIR" in page.text
        assert "<script>" not in page.text
        assert "script-src *" not in page.headers["Content-Security-Policy"]


def test_every_file_of_the_package_has_a_known_type() -> None:
    names = {file.name for file in STATIC.iterdir() if file.suffix != ".br"}
    assets = Assets.of_package()
    assert {name for name in names if name in assets} == names


def gzipped(*names: str) -> int:
    return sum(len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in names)


def brotli(*names: str) -> int:
    return sum((STATIC / f"{name}.br").stat().st_size for name in names)


def test_what_pages_of_other_people_load_is_small() -> None:
    (russian,) = (file.name for file in STATIC.glob("ru-*.js"))
    # Pages on https get Brotli, others gzip.
    assert brotli("widget.js", PANEL) <= 26.5 * 1024
    assert brotli(PANEL) <= 24 * 1024
    assert gzipped("widget.js", PANEL) <= 30 * 1024
    assert gzipped(PANEL) <= 26.5 * 1024
    assert gzipped("widget.js") <= 3 * 1024
    assert gzipped(russian) <= 2 * 1024
    assert gzipped("sdk.js") <= 8 * 1024


def test_the_console_is_small_and_its_first_view_smaller() -> None:
    (russian,) = (file.name for file in STATIC.glob("console-ru-*.js") if file.stat().st_size > 1000)
    files = {file.name for file in STATIC.glob("console-*")}
    later = {name for name in files if name.startswith(("console-ru-", "console-pages-", "console-admin-ru-"))}
    assert sum(map(gzipped, files - later)) <= 60 * 1024
    assert sum(map(gzipped, files)) <= 110 * 1024
    assert gzipped(russian) <= 5 * 1024
    assert gzipped("desk.js") <= 10 * 1024
