"""Brings the widget into its states one after the other, for pictures and for tests of every state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.system.server_process import ServerProcess
from tests.web.browser import Operator, Widget
from tests.web.pictures import lamp

__all__ = ["SIGN_OUT", "WORDS", "operator_in_room", "operators_online", "show_states"]

WORDS: Final = {
    "en": (
        "Hi! Is the Harrow lamp OK with a 12 W bulb? The shop page says 9 W",
        "Hello, good question. The fitting itself is rated for 15 W, so a 12 W LED is fine.",
        "We fit a 9 W one because it’s the warmest. Here is how 12 W looks in our showroom:",
        "Lovely. And this shade would fit? https://lumen-hale.example/shades/linen-38",
        "Yes, the linen 38 fits. I can put one aside for you until Friday if you like.",
        "Could you hold one for me until Friday?",
        "Done: it is yours until Saturday.",
    ),
    "ru": (
        "Здравствуйте! Подойдёт ли к лампе Harrow лампочка на 12 Вт? На странице указано 9 Вт",
        "Добрый день! Патрон рассчитан на 15 Вт, так что светодиодная на 12 Вт подойдёт.",
        "Мы ставим 9 Вт, потому что у неё самый тёплый свет. А так выглядят 12 Вт в нашем зале:",
        "Отлично. А этот абажур подойдёт? https://lumen-hale.example/shades/linen-38",
        "Да, льняной 38 подходит. Могу отложить его для вас до пятницы.",
        "Отложите, пожалуйста, до пятницы",
        "Готово: он ваш до субботы.",
    ),
}

ROOM: Final = """([url, chat, token]) => new Promise(resolve => {
    window.room = new WebSocket(`${url}/ws/chats/${chat}?after=-1`, ["actorchat.v1.ext", `bearer.${token}`])
    window.tell = (type, data) => room.send(JSON.stringify({type, data}))
    room.onmessage = ({data}) => {
        const {type, data: {message}} = JSON.parse(data)
        if (type === "user_connected") resolve()
        if (message?.user?.role === "user") tell("mark_message_read", {message_id: message.id})
    }
})"""

FEEDS: Final = """([url, tokens]) => Promise.all(tokens.map(token => new Promise(resolve => {
    const feed = new WebSocket(`${url}/ws/operators`, ["actorchat.v1.ext", `bearer.${token}`])
    feed.onmessage = resolve
})))"""

SIGN_OUT: Final = """server => {
    const key = Object.keys(localStorage).find(key => key.startsWith(`actorchat.${server}`) && key.endsWith(".visit"))
    const { token } = JSON.parse(localStorage[key])
    const headers = { Authorization: `Bearer ${token}` }
    return fetch(`${server}/api/sign-out`, { method: "POST", headers }).then(() => 0)
}"""

PLAN: Final[FilePayload] = {
    "name": "room-plan.pdf",
    "mimeType": "application/pdf",
    "buffer": b"%PDF-1.4 " + bytes(1_200_000),
}
PROGRAM: Final[FilePayload] = {
    "name": "setup.exe",
    "mimeType": "application/octet-stream",
    "buffer": b"MZ" + bytes(400),
}


@contextmanager
def operators_online(browser: Browser, server: ServerProcess) -> Iterator[None]:
    """Keep three operators online inside the block."""
    tab = browser.new_page()
    tab.goto(f"{server.url}/sdk.d.ts")
    team = (Operator(server), Operator(server, 2, "Jan", "Thiel"), Operator(server, 3, "Rosa", "Sato"))
    tab.evaluate(FEEDS, [server.url.replace("http", "ws"), [operator.token for operator in team]])
    try:
        yield
    finally:
        tab.close()


@contextmanager
def operator_in_room(page: Page, server: ServerProcess, operator: Operator, chat: str) -> Iterator[Callable[[], None]]:
    """Keep the operator in the room inside the block: they read everything. Yields a function that makes them type."""
    tab = page.context.new_page()
    tab.goto(f"{server.url}/sdk.d.ts")
    tab.evaluate(ROOM, [server.url.replace("http", "ws"), chat, operator.token])
    page.bring_to_front()
    try:
        yield lambda: tab.evaluate("tell('update_typing', {text: 'hm', stopped: false})")
    finally:
        tab.close()


def show_states(
    page: Page, server: ServerProcess, olga: Operator, words: tuple[str, ...], take: Callable[[str], None]
) -> None:
    """Call `take` with the name of each state. The page has the widget, of a source with suggested questions."""
    widget = Widget(page)
    host = widget.host
    widget.launcher.wait_for()
    take("launcher")
    widget.open()
    host.locator(".ask").wait_for()
    take("start")
    widget.send(words[0])
    widget.wait_for(words[0][:20])
    take("queue")
    chat = olga.newest_chat()
    olga.call("POST", f"/chats/{chat}/accept")
    with operator_in_room(page, server, olga, chat) as type_something:
        olga.say(chat, words[1])
        olga.say(chat, words[2], (olga.upload("harrow-12w.jpg", lamp()),))
        host.locator(".img img").wait_for()
        host.locator("input[type=file]").set_input_files(PLAN)
        host.locator(".chip").wait_for()
        take("chosen-file")
        widget.send(words[3])
        widget.wait_for("room-plan.pdf")
        expect(widget.waiting).to_have_count(0)
        host.locator(".read").last.wait_for()
        take("chat")
        type_something()
        host.locator(".dots").wait_for()
        take("typing")
    host.locator("[aria-haspopup]").click()
    take("menu")
    host.locator("[aria-haspopup]").click()
    host.locator(".img button").click()
    host.locator("dialog").wait_for()
    take("image")
    page.keyboard.press("Escape")
    host.locator("dialog").wait_for(state="detached")
    page.keyboard.press("Escape")
    answer = olga.say(chat, words[4])
    host.locator(".peek").wait_for()
    take("peek")
    widget.open()
    page.context.set_offline(True)
    widget.send(words[5])
    widget.bar.wait_for()
    take("offline")
    page.context.set_offline(False)
    expect(widget.waiting).to_have_count(0)
    olga.remove(answer)
    olga.edit(olga.say(chat, words[4]), words[6])
    widget.wait_for(words[6])
    take("edited")
    widget.scroll_up(400)
    olga.say(chat, words[1])
    host.locator(".pill").click()
    widget.scroll_up(400)
    olga.say(chat, words[2])
    host.locator(".pill").wait_for()
    take("new-messages")
    host.locator(".pill").click()
    host.locator("input[type=file]").set_input_files(PROGRAM)
    widget.field.press("Enter")
    widget.failed.wait_for()
    take("failed")
    widget.failed.get_by_role("button").last.click()
    olga.call("POST", f"/chats/{chat}/close")
    host.locator(".end").wait_for()
    take("closed")
    # The visitor signs out in another place.
    page.evaluate(SIGN_OUT, server.url)
    host.locator(".start .end .btn").wait_for()
    take("ended")
    host.locator(".end .btn").click()
    host.locator(".ask").wait_for()
