"""Brings the console into its states one after the other, for pictures and for tests of every state.

`python -m tests.web.console_states FOLDER` takes the pictures. It fails if a page is wider than its window.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.system.server_process import ServerProcess
from tests.web.accounts import PASSWORD, add_account
from tests.web.administration_states import (
    Administrator,
    add_people_and_tags,
    show_administration,
    show_first_sign_in,
    show_history,
)
from tests.web.browser import PATIENCE, Operator, open_browser, running_server, running_site
from tests.web.pictures import lamp
from tests.web.screenshots import LANGUAGES, SIZES, THEMES, save_for_docs

__all__ = ["Visitor", "show_states"]

TOO_WIDE: Final = "document.documentElement.scrollWidth - innerWidth"

VISITORS: Final = (
    (101, "Daniel", "Kowalski", "Hi! Is the Harrow lamp OK with a 12 W bulb? The shop page says 9 W"),
    (102, "Анна", "Петрова", "Оплата прошла дважды, что мне делать?"),
    (103, "يوسف", "سالم", "شكرا، وصلت المصابيح بحالة ممتازة"),
    (104, "Marta", "López", "Is there a discount for three or more?"),
)
REPLIES: Final = (
    ("hello", "A greeting", "Hello {name}, this is {operator}. How can I help?"),
    ("ship", "Delivery", "We make each lamp to order and ship it within two weeks, everywhere in Europe."),
    ("", "Возврат", "Вернуть лампу можно в течение 30 дней, доставку мы оплатим."),
)
PAGE: Final = {
    "url": "https://lumen-hale.example/lamps/harrow",
    "title": "Harrow floor lamp",
    "referrer": "https://www.google.com/",
    "language": "pl",
    "timezone": "Europe/Warsaw",
}


class Visitor:
    """A user of the site who writes over HTTP."""

    def __init__(self, server: ServerProcess, token: str) -> None:
        self._client = httpx.Client(base_url=f"{server.url}/api", timeout=PATIENCE)
        self._client.headers["Authorization"] = f"Bearer {token}"
        visit = self._client.post("/visitors", json={"source": "lk", "context": PAGE}).raise_for_status()
        self.chat = str(visit.json()["chat"]["uuid"])

    def say(self, text: str) -> None:
        self._client.post(f"/chats/{self.chat}/messages", json={"text": text}).raise_for_status()

    def close(self) -> None:
        self._client.close()


def add_saved_replies(server: ServerProcess) -> None:
    admin = Administrator(server)
    for shortcut, title, text in REPLIES:
        admin.call("POST", "/replies", source="lk", shortcut=shortcut, title=title, text=text)
    admin.close()


def show_states(page: Page, server: ServerProcess, colleague: Operator, take: Callable[[str], None]) -> None:
    """Sign in as the account `olga`, which must exist, and call `take` with the name of each state."""
    add_saved_replies(server)
    page.goto(f"{server.url}/console")
    page.locator("form").wait_for()
    take("sign-in")
    page.locator("[name=login]").fill("olga")
    page.locator("[name=password]").fill(PASSWORD)
    page.locator("form .btn").click()
    page.locator(".rows.empty").wait_for()
    take("empty")
    visitors = [Visitor(server, colleague.token_of_user(number, first, last)) for number, first, last, _ in VISITORS]
    for visitor, (*_, text) in zip(visitors, VISITORS, strict=True):
        visitor.say(text)
    expect(page.locator(".row")).to_have_count(len(VISITORS))
    take("new")
    daniel = visitors[0]
    page.locator(".row", has_text="Daniel").click()
    page.locator(".bub").wait_for()
    take("new-chat")
    page.locator(".chat header .btn.p").click()
    page.locator(".chat header .btn:not(.p)").last.wait_for()
    page.locator("#composer").fill("Hello, good question. The fitting is rated for 15 W, so a 12 W LED is fine.")
    page.locator(".bar .btn").click()
    page.locator(".g.op .bub", has_text="Hello, good question.").wait_for()
    files: list[FilePayload] = [{"name": "harrow-12w.jpg", "mimeType": "image/jpeg", "buffer": lamp()}]
    page.locator("input[type=file]").set_input_files(files)
    page.locator("#composer").fill("Here is how 12 W looks in our showroom:")
    page.locator(".bar .btn").click()
    page.locator(".img img").wait_for()
    colleague.note(daniel.chat, "He bought two Harrows in May and one came back with a crack. Be generous.")
    daniel.say("Lovely. And this shade would fit? https://lumen-hale.example/shades/linen-38")
    page.locator(".g.note").wait_for()
    page.locator(".bub", has_text="linen-38").wait_for()
    take("chat")
    own = page.locator(".own", has_text="The fitting is rated")
    own.hover()
    own.locator(".ib").click()
    page.locator("dialog textarea").wait_for()
    take("edit-message")
    page.locator("dialog .far").click()
    page.locator("dialog .bad").wait_for()
    take("remove-message")
    close_dialog(page)
    page.locator(".chat header .hold .ib").click()
    page.locator(".menu").wait_for()
    take("more")
    page.locator(".menu button").nth(3).click()
    page.locator("dialog").wait_for()
    take("transcript")
    close_dialog(page)
    page.locator(".chat header .hold .ib").click()
    page.locator(".menu button").nth(4).click()
    page.locator("dialog").wait_for()
    take("block")
    close_dialog(page)
    page.keyboard.press("Control+k")
    page.locator("dialog [role=option]").first.wait_for()
    take("palette")
    page.keyboard.type("mar")
    page.locator("dialog [role=option]", has_text="Marta").wait_for()
    take("palette-found")
    close_dialog(page)
    page.locator("#composer").blur()
    page.keyboard.press("?")
    page.locator("dialog .keys").first.wait_for()
    take("keys")
    close_dialog(page)
    page.locator(".mode [role=tab]").last.click()
    page.locator("#composer").fill("Ask the workshop about the crack")
    take("note")
    page.locator("#composer").fill("")
    page.locator(".mode [role=tab]").first.click()
    page.locator("#composer").fill("/")
    page.locator(".picker").wait_for()
    take("saved-replies-picker")
    page.locator("#composer").fill("")
    page.locator("#composer").blur()
    page.keyboard.press("t")
    page.locator("dialog").wait_for()
    take("transfer")
    close_dialog(page)
    colleague.call("POST", f"/chats/{visitors[3].chat}/accept")
    page.keyboard.press("Escape")
    page.locator(".tabs button").nth(2).click()
    page.locator(".row", has_text="Marta").click()
    page.locator(".comp .why").wait_for()
    take("chat-of-a-colleague")
    colleague.call("POST", f"/chats/{visitors[3].chat}/close")
    page.locator(".ev", has_text="Jan").wait_for()
    take("closed")
    page.keyboard.press("Escape")
    page.locator(".rail > button").nth(1).click()
    page.locator(".page").wait_for()
    take("saved-replies")
    page.locator(".rail > button").nth(2).click()
    page.locator(".source").wait_for()
    take("sources")
    page.locator(".me > button").click()
    page.locator(".menu").wait_for()
    take("me")
    page.locator(".menu button").nth(1).click()
    page.locator(".settings").wait_for()
    take("settings")
    page.locator(".rail > button").first.click()
    for visitor in visitors:
        visitor.close()


def close_dialog(page: Page) -> None:
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, action="append", choices=SIZES)
    parser.add_argument("--docs", action="store_true", help="also update the picture of the documentation")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    too_wide: list[str] = []
    for width in chosen.width or SIZES:
        for theme in THEMES:
            for language in LANGUAGES:
                take_pictures(chosen.folder, width, theme, language, too_wide)
    if chosen.docs:
        update_docs(chosen.folder)
    if too_wide:
        raise SystemExit("wider than the window: " + ", ".join(too_wide))


def take_pictures(folder: Path, width: int, theme: str, language: str, too_wide: list[str]) -> None:
    with (
        tempfile.TemporaryDirectory() as data,
        running_site() as site,
        running_server(Path(data) / "data", site) as server,
        open_browser() as browser,
    ):
        add_account(server, "olga")
        colleague = Operator(server, 2, "Jan", "Tailor")
        page = browser.new_page(
            viewport={"width": width, "height": SIZES[width]},
            color_scheme="dark" if theme == "dark" else "light",
            locale=language,
        )
        page.set_default_timeout(PATIENCE * 1000)

        def take(state: str) -> None:
            page.wait_for_timeout(250)
            name = f"console-{state}-{width}-{theme}-{language}"
            if page.evaluate(TOO_WIDE) > 0:
                too_wide.append(name)
            page.screenshot(path=folder / f"{name}.png")

        show_states(page, server, colleague, take)
        admin = Administrator(server)
        add_people_and_tags(admin, admin.newest_chat())
        show_administration(page, take)
        show_history(page, take)
        show_first_sign_in(page, server, admin, take)
        admin.close()
        colleague.close()


def update_docs(pictures: Path) -> None:
    """Put the pictures that the documentation shows into `docs/images`."""
    for state, name in (("chat", "console"), ("metrics-hover", "metrics")):
        with Image.open(pictures / f"console-{state}-1440-light-en.png") as picture:
            save_for_docs(picture, name)


if __name__ == "__main__":
    main()
