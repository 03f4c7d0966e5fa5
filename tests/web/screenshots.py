"""Takes pictures of the demo page and of the widget's states: `python -m tests.web.screenshots FOLDER`.

Fails if a page is wider than its window.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.system.server_process import ServerProcess
from tests.web.accounts import configure_widget
from tests.web.browser import CustomerSite, Operator, open_browser, running_server, running_site
from tests.web.widget_states import WORDS, operators_online, show_states

SIZES = {360: 740, 768: 1024, 1440: 900}
THEMES = ("light", "dark")
LANGUAGES = ("en", "ru")

SHOP = """
<style>
body{margin:0;background:#f3efe8;color:#2b2722;font:16px/1.6 Georgia,"DejaVu Serif",serif}
main{max-width:960px;padding:56px 64px;display:grid;grid-template-columns:1fr 1fr;gap:44px;align-items:center}
i{aspect-ratio:4/5;border-radius:4px;
background:radial-gradient(circle at 50% 30%,#fff6dc 0 10%,#f0c87a 11% 18%,#0000 18.5%),
linear-gradient(#8a7a66,#8a7a66) 50% 100%/4px 64% no-repeat,
radial-gradient(ellipse at 50% 30%,#fbe3b0,#d8c3a1 45%,#bda98a)}
h1{font-weight:400;font-size:32px;line-height:1.2;margin:0 0 16px}
@media(max-width:820px){main{grid-template-columns:1fr;padding:24px}}
@media(prefers-color-scheme:dark){body{background:#191613;color:#e9e2d8}i{filter:brightness(.7)}}
</style>
<main><i></i><div><h1>The Harrow floor lamp, turned from one piece of oak.</h1>
<p>Warm, dimmable light from a hand-blown globe. Made to order in our workshop, delivered in two weeks.</p></div></main>
"""

CONTACT = """
<style>
body{margin:0;background:#f3efe8;color:#2b2722;font:16px/1.6 Georgia,"DejaVu Serif",serif}
main{max-width:820px;margin:auto;padding:24px}
h1{font-weight:400;font-size:32px;line-height:1.2;margin:0 0 8px}
actorchat-widget{display:block;height:520px}
@media(prefers-color-scheme:dark){body{background:#191613;color:#e9e2d8}}
</style>
<main><h1>Contact</h1><p>Write to us here, or call 020 7946 0100.</p>
<actorchat-widget mode="inline"></actorchat-widget></main>
"""


class Camera:
    """Takes the pictures of one window size, theme and language."""

    def __init__(self, folder: Path, page: Page, suffix: str) -> None:
        self._folder = folder
        self._page = page
        self._suffix = suffix
        self.too_wide: list[str] = []

    def take(self, state: str) -> None:
        page = self._page
        page.wait_for_timeout(250)
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        wide = page.evaluate(
            "[...document.querySelector('actorchat-host, actorchat-widget').shadowRoot"
            ".querySelectorAll('.panel, .log, .comp, .bar')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className)"
        )
        if width > 0 or wide:
            self.too_wide.append(f"{state}-{self._suffix}: {wide or 'page'}")
        page.screenshot(path=self._folder / f"{state}-{self._suffix}.png")


def configure(server: ServerProcess) -> None:
    """Configure a widget for each language: the sources `lk` and `ru`."""
    questions = {
        "lk": ["Where is my order?", "Which bulb do I need?", "Returns and repairs"],
        "ru": ["Где мой заказ?", "Какая лампочка мне нужна?", "Возврат и ремонт"],
    }
    for source, suggested in questions.items():
        privacy = "https://lumen-hale.example/privacy"
        configure_widget(
            server, source, title="Lumen & Hale", questions=suggested, privacy_url=privacy, answer_seconds=180
        )


def take_all(folder: Path, browser: Browser, server: ServerProcess, site: CustomerSite, sizes: list[int]) -> list[str]:
    too_wide: list[str] = []
    olga = Operator(server)
    for width in sizes:
        for theme in THEMES:
            for language in LANGUAGES:
                context = browser.new_context(
                    viewport={"width": width, "height": SIZES[width]},
                    color_scheme="dark" if theme == "dark" else "light",
                    locale=language,
                )
                page = context.new_page()
                camera = Camera(folder, page, f"{width}-{theme}-{language}")
                if language == "en":
                    page.goto(server.url)
                    page.locator("actorchat-host .fab").wait_for()
                    camera.take("demo")
                source = "ru" if language == "ru" else "lk"
                site.put(server.url, f'data-lang="{language}" data-source="{source}"', body=SHOP)
                page.goto(site.url)
                show_states(page, server, olga, WORDS[language], camera.take)
                tag = f'data-lang="{language}" data-source="{source}" data-mode="inline"'
                site.put(server.url, tag, path="/contact", body=CONTACT)
                page.goto(f"{site.url}/contact")
                page.locator("actorchat-widget .ask").wait_for()
                camera.take("inline")
                too_wide += camera.too_wide
                context.close()
    olga.close()
    return too_wide


def save_for_docs(picture: Image.Image, name: str) -> None:
    """Save a picture into `docs/images`, with few colours and thereby small. Rare colours are kept, such as a dot's."""
    folder = Path(__file__).parents[2] / "docs" / "images"
    folder.mkdir(exist_ok=True)
    small = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    small.save(folder / f"{name}.png", optimize=True)


def update_docs(pictures: Path) -> None:
    """Put the picture that the documentation shows into `docs/images`."""
    with Image.open(pictures / "chat-1440-light-en.png") as picture:
        save_for_docs(picture.crop((0, 60, 1440, 900)), "widget")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, action="append", choices=SIZES)
    parser.add_argument("--docs", action="store_true", help="also update the picture of the documentation")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        running_site() as site,
        running_server(Path(data) / "data", site) as server,
        open_browser() as browser,
        operators_online(browser, server),
    ):
        configure(server)
        too_wide = take_all(chosen.folder, browser, server, site, chosen.width or list(SIZES))
    if chosen.docs:
        update_docs(chosen.folder)
    if too_wide:
        raise SystemExit("wider than the window: " + ", ".join(too_wide))


if __name__ == "__main__":
    main()
