"""A crawler that asks each site at most twice a second: `python -m examples.rate_limited_crawler`.

There is one virtual actor for each site. It starts with the first request for the site, waits between requests with a
timer, fetches pages in the background with a pipe, and stops when it is idle. The web is simulated.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from actorchat.actors import Actor, Pending, Request, open_system

PACE = 0.5  # seconds between two requests to one site
WEB = {
    "one.example/": ("one.example/a", "one.example/b", "two.example/"),
    "one.example/a": ("one.example/", "two.example/a"),
    "two.example/": ("two.example/a", "two.example/b", "one.example/b"),
}
Links = tuple[str, ...]


@attrs.frozen
class Visit(Request[Links]):
    """A request to fetch `url` in its turn. The reply is its links."""

    url: str


@attrs.frozen
class Turn:
    """The timer's message: the next request may be sent."""


@attrs.frozen
class Fetched:
    answer: Pending[Links]
    links: Links


Message = Visit | Turn | Fetched


class Site(Actor[Message]):
    """Sends the requests to one site, one after the other."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.waiting: deque[tuple[str, Pending[Links]]] = deque()
        self.pausing = False

    async def receive(self, message: Message) -> None:
        match message:
            case Visit(url):
                # The caller waits for the deferred reply; the actor handles other messages meanwhile.
                self.waiting.append((url, self.defer(message)))
                self.fetch_next()
            case Turn():
                self.pausing = False
                self.fetch_next()
            case Fetched(answer, links):
                answer.reply(links)

    def fetch_next(self) -> None:
        if self.waiting and not self.pausing:
            url, answer = self.waiting.popleft()
            self.pipe(lambda: fetch(url), ok=lambda links: Fetched(answer, links))
            self.pausing = True
            self.after(PACE, Turn(), key="pace")


async def fetch(url: str) -> Links:
    """Stands for an HTTP request."""
    print(f"fetching {url}")
    await trio.sleep(0.2)
    return WEB.get(url, ())


async def main() -> None:
    seen = {"one.example/"}
    async with open_system() as system, trio.open_nursery() as nursery:
        sites = system.virtual(Site, idle=2.0)

        async def visit(url: str) -> None:
            host = url.partition("/")[0]
            for link in await sites[host].ask(Visit(url), timeout=30.0):
                if link not in seen:
                    seen.add(link)
                    nursery.start_soon(visit, link)

        nursery.start_soon(visit, "one.example/")
    print(f"{len(seen)} pages")


if __name__ == "__main__":
    trio.run(main)
