import assert from "node:assert/strict"
import { test } from "node:test"
import type { Chat } from "../sdk/chat.ts"
import { olga, record, visitor, World } from "./world.ts"

const texts = (list: readonly { text: string }[]): string[] => list.map(({ text }) => text)

test("nothing is sent before the visitor writes", async () => {
  const world = new World()
  const chat = world.chat()
  await world.advance(60_000)
  assert.deepEqual([world.requests, world.sockets, chat.state], [[], [], "idle"])
})

test("the first message gets a visitor, the history and a socket that resumes after it", async () => {
  const world = new World()
  world.history = [world.message("earlier", olga)]
  const chat = world.chat()
  const { id } = chat.send("hello")
  await world.settle()
  assert.deepEqual(world.requests.map(({ path }) => path), ["/api/visitors", "/api/chats/c1/messages?limit=50"])
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c1?after=0")
  assert.deepEqual(world.socket.protocols, ["actorchat.v1.ext", "bearer.t1"])
  world.socket.accept()
  assert.deepEqual(world.socket.commands("send_message"), [{ text: "hello", attachments: [], client_id: id }])
})

test("messages are sent one after the other, in their order", async () => {
  const world = new World()
  const chat = world.chat()
  for (const text of ["one", "two", "three"]) chat.send(text)
  await world.settle()
  world.socket.accept()
  assert.deepEqual(texts(world.socket.commands("send_message") as never), ["one"])
  await world.store(0)
  await world.store(1)
  await world.store(2)
  assert.deepEqual(texts(world.socket.commands("send_message") as never), ["one", "two", "three"])
  assert.deepEqual(texts(chat.messages), ["one", "two", "three"])
  assert.deepEqual(chat.pending, [])
})

test("a message without an answer is sent again over the next socket, with the same client_id", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const delivery = chat.send("again")
  await world.settle()
  world.socket.lose()
  await world.advance(500)
  world.socket.accept()
  assert.deepEqual(world.socket.commands("send_message"), [{ text: "again", attachments: [], client_id: delivery.id }])
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c1?after=0")
  await world.store(0)
  assert.equal((await delivery.stored).text, "again")
})

test("a message that was not stored survives a reload and is sent once", async () => {
  const world = new World()
  const before = world.chat()
  world.online = false
  before.send("kept")
  await world.advance(10)
  before.stop()
  world.online = true
  const after = world.chat()
  assert.deepEqual(texts(after.pending), ["kept"])
  await world.settle()
  world.socket.accept()
  await world.store(0)
  assert.deepEqual([texts(after.pending), texts(after.messages)], [[], ["kept"]])
  after.stop()
  assert.deepEqual(world.chat().pending, [])
})

test("without storage the chat works, and forgets with the page", async () => {
  const world = new World()
  world.storageWorks = false
  const chat = await world.liveChat()
  assert.deepEqual(texts(chat.messages), ["hello"])
  assert.equal(world.chat().me, null)
})

test("a known visitor continues with the same token and chat", async () => {
  const world = new World()
  const first = await world.liveChat()
  first.stop()
  world.requests = []
  const second = world.chat()
  await world.settle()
  assert.deepEqual(second.me, visitor)
  assert.deepEqual(world.requests, [{ method: "GET", path: "/api/chats/c1/messages?limit=50", token: "t1" }])
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c1?after=0")
})

test("a message that arrives twice is shown once, and late ones take their place", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const [second, third] = [world.message("2", olga), world.message("3", olga)]
  for (const message of [third, second, third]) world.socket.event("message_added", { message })
  assert.deepEqual(texts(chat.messages), ["hello", "2", "3"])
})

test("a refusal that passes is waited out; others make the message a failed one that can be retried", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const refuse = (at: number, more: object): void => {
    const { text, client_id } = world.socket.commands("send_message")[at] as { text: string; client_id: string }
    world.socket.event("message_not_added", { text, client_id, chat_id: "c1", attachments: [], detail: "", ...more })
  }
  const { id } = chat.send("hurry")
  await world.settle()
  refuse(1, { code: "rate_limited", retryable: true, retry_after: 3 })
  await world.advance(2_900)
  assert.equal(world.socket.commands("send_message").length, 2)
  await world.advance(200)
  refuse(2, { code: "blocked", retryable: false, retry_after: null })
  assert.equal(chat.pending[0]?.failed?.code, "blocked")
  chat.send("next")
  await world.settle()
  assert.equal(world.socket.commands("send_message").at(-1)?.["text"], "next")
  await world.store(3)
  chat.retry(id)
  await world.settle()
  assert.equal(world.socket.commands("send_message").at(-1)?.["client_id"], id)
})

test("half an emoji and NUL don't make a message fail", async () => {
  const world = new World()
  const chat = await world.liveChat()
  chat.send("half \ud83d, whole \ud83d\ude00, \0")
  await world.settle()
  assert.equal(world.socket.commands("send_message")[1]?.["text"], "half \ufffd, whole \ud83d\ude00, \ufffd")
})

test("a failed message that is discarded rejects its promise", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const { id, stored } = chat.send("no")
  await world.settle()
  chat.discard(id)
  await assert.rejects(stored, { code: "discarded" })
  assert.deepEqual(chat.pending, [])
})

test("silence is noticed within half a minute, and the connection is opened anew", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const silent = world.socket
  await world.advance(20_000)
  assert.deepEqual(silent.commands("ping"), [{ n: 1 }])
  await world.advance(6_500)
  assert.notEqual(world.socket, silent)
  assert.equal(silent.readyState, 3)
  world.socket.accept()
  assert.equal(chat.state, "live")
})

test("an answer to a ping keeps the connection", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const socket = world.socket
  for (const n of [1, 2, 3]) {
    await world.advance(20_000)
    socket.event("pong", { n })
  }
  await world.advance(10_000)
  assert.deepEqual([world.socket === socket, chat.state], [true, "live"])
})

test("attempts wait longer and longer, and say when the chat can't be reached", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const waits: number[] = []
  for (let i = 0; i < 8; i++) {
    world.socket.lose()
    await world.settle()
    waits.push(chat.retryAt - world.now)
    assert.equal(chat.reason, i < 4 ? "lost" : "unreachable")
    await world.advance(chat.retryAt - world.now)
  }
  assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000])
})

test("only a socket that was live for five seconds ends a row of attempts", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const waits: number[] = []
  for (const seconds of [5, 1, 4, 5, 0]) {
    await world.advance(seconds * 1000)
    world.socket.lose(1012)
    await world.settle()
    waits.push(chat.retryAt - world.now)
    await world.advance(chat.retryAt - world.now)
    world.socket.accept()
    world.socket.event("chat_updated", { chat: record() })
    assert.equal(chat.state, "live")
  }
  assert.deepEqual(waits, [500, 1000, 2000, 500, 1000])
})

test("the network's return is used at once", async () => {
  const world = new World()
  const chat = await world.liveChat()
  world.online = false
  world.fire("offline")
  assert.equal(chat.state, "offline")
  await world.advance(60_000)
  assert.equal(world.sockets.length, 1)
  world.online = true
  world.fire("online")
  await world.settle()
  assert.equal(world.sockets.length, 2)
})

test("a socket that the server ends for good is not opened again", async () => {
  for (const [code, reason] of [[1000, "stopped"], [4403, "not_allowed"], [4410, "signed_out"]] as const) {
    const world = new World()
    const chat = await world.liveChat()
    world.socket.lose(code)
    await world.advance(120_000)
    assert.deepEqual([chat.state, chat.reason, world.sockets.length], ["ended", reason, 1])
  }
})

test("an expired token of the site is asked for once more", async () => {
  const world = new World()
  let asked = 0
  const chat = world.chat(() => Promise.resolve(`site${++asked}`))
  chat.send("hello")
  await world.settle()
  world.socket.accept()
  const before = asked
  world.socket.lose(4401)
  await world.settle()
  assert.equal(asked, before + 1)
  assert.equal(world.sockets.length, 2)
  world.socket.lose(4401)
  await world.advance(60_000)
  assert.deepEqual([chat.state, chat.reason, world.sockets.length], ["ended", "not_authenticated", 2])
})

test("a deleted chat makes a visitor begin anew", async () => {
  const world = new World()
  const first = await world.liveChat()
  first.stop()
  let gone = true
  world.answer = ({ path }) => {
    if (path === "/api/visitors") return { status: 201, body: { token: "t2", user: visitor, chat: record("c2") } }
    if (path.includes("c1") && gone) return { status: 404, body: { error: { code: "not_found", detail: "" } } }
    return undefined
  }
  world.history = []
  const second = world.chat()
  await world.settle()
  gone = false
  assert.deepEqual([texts(second.messages), world.socket.url], [[], "ws://chat.test/ws/chats/c2?after=-1"])
})

test("a restored backup replaces the messages", async () => {
  const world = new World()
  const chat = await world.liveChat()
  world.socket.event("resync_required", { chat_id: "c1", last_index: 0 })
  world.socket.event("message_added", { message: world.message("of the backup", olga) })
  assert.deepEqual(texts(chat.messages), ["of the backup"])
})

test("unread messages are those of operators; reading marks the newest one", async () => {
  const world = new World()
  const chat = await world.liveChat()
  for (const text of ["a", "b"]) world.socket.event("message_added", { message: world.message(text, olga) })
  await world.advance(20)
  assert.equal(chat.unread, 2)
  assert.deepEqual(world.socket.commands("mark_message_delivered"), [{ message_id: 102 }])
  chat.markRead()
  assert.equal(chat.unread, 0)
  assert.deepEqual(world.socket.commands("mark_message_read"), [{ message_id: 102 }])
})

test("a mark that was lost with the connection is sent again", async () => {
  const world = new World()
  const chat = await world.liveChat()
  world.socket.event("message_added", { message: world.message("a", olga) })
  world.socket.lose()
  chat.markRead()
  await world.advance(500)
  world.socket.accept()
  await world.advance(20)
  assert.deepEqual(world.socket.commands("mark_message_read"), [{ message_id: 101 }])
})

test("typing of an operator ends by itself, and with the message", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const types = (): void => world.socket.event("typing_updated", { text: "", stopped: false, chat_id: "c1", user: olga })
  types()
  assert.deepEqual(chat.typing, [olga])
  await world.advance(8_000)
  assert.deepEqual(chat.typing, [])
  types()
  world.socket.event("message_added", { message: world.message("a", olga) })
  assert.deepEqual(chat.typing, [])
})

test("typing is reported at a bounded rate, with the newest text", async () => {
  const world = new World()
  const chat = await world.liveChat()
  await world.advance(1_000)
  for (const text of ["h", "he", "hel"]) {
    chat.setTyping(text)
    await world.advance(100)
  }
  await world.advance(700)
  const typed = world.socket.commands("update_typing").map(({ text }) => text)
  assert.deepEqual(typed, ["h", "hel"])
})

test("a message waits for its files; its text and the later messages keep their order", async () => {
  const world = new World()
  const chat = await world.liveChat()
  chat.send("with a file", { files: [new File(["x"], "a.txt")] })
  chat.send("later")
  await world.settle()
  assert.equal(world.socket.commands("send_message").length, 1)
  world.uploads[0]?.progress(0.5)
  assert.equal(chat.pending[0]?.files[0]?.progress, 0.5)
  world.uploads[0]?.finish(201, { uuid: "f1" })
  await world.settle()
  assert.deepEqual(world.socket.commands("send_message")[1]?.["attachments"], ["f1"])
  await world.store(1)
  assert.equal(world.socket.commands("send_message")[2]?.["text"], "later")
})

test("an upload is repeated after a lost network, and fails for good when it is refused", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const { id } = chat.send("", { files: [new File(["x"], "a.exe")] })
  await world.settle()
  world.uploads[0]?.finish(0, null)
  await world.advance(1_500)
  world.uploads[1]?.finish(422, { error: { code: "attachment_rejected", detail: "no programs" } })
  await world.settle()
  assert.deepEqual(chat.pending[0]?.failed, { code: "attachment_rejected", detail: "no programs" })
  chat.retry(id)
  await world.settle()
  assert.equal(world.uploads.length, 3)
})

test("files that a reload has lost are left out when the message is retried", async () => {
  const world = new World()
  const before = await world.liveChat()
  before.send("text stays", { files: [new File(["x"], "a.txt")] })
  await world.settle()
  before.stop()
  const after = world.chat()
  const [message] = after.pending
  assert.equal(message?.failed?.code, "upload_interrupted")
  after.retry(message?.id ?? "")
  await world.settle()
  world.socket.accept()
  assert.deepEqual(texts(world.socket.commands("send_message") as never), ["text stays"])
})

test("where closed chats are not reopened, a message goes to a new chat", async () => {
  const world = new World()
  const chat = await world.liveChat()
  chat.send("once more")
  await world.settle()
  const { client_id } = world.socket.commands("send_message")[1] as { client_id: string }
  world.answer = ({ path }) =>
    path === "/api/visitors" ? { status: 200, body: { token: "t2", user: visitor, chat: record("c2") } } : undefined
  world.history = []
  const refusal = { code: "chat_closed", detail: "", retryable: false, retry_after: null, text: "once more", client_id }
  world.socket.event("message_not_added", { ...refusal, chat_id: "c1", attachments: [] })
  await world.advance(50)
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c2?after=-1")
  world.socket.accept()
  assert.deepEqual(world.socket.commands("send_message")[0]?.["client_id"], client_id)
})

test("signing out forgets the visitor and everything that waits", async () => {
  const world = new World()
  const chat = await world.liveChat()
  chat.send("secret")
  chat.signOut()
  await world.settle()
  assert.deepEqual([chat.me, chat.messages.length, chat.pending.length, chat.state], [null, 0, 0, "idle"])
  assert.deepEqual([...world.storage.items], [])
})

test("a page that returns from the back/forward cache connects anew", async () => {
  const world = new World()
  const chat = await world.liveChat()
  world.fire("pagehide", { persisted: true })
  assert.equal(chat.state, "idle")
  world.fire("pageshow", { persisted: true })
  await world.settle()
  assert.equal(world.sockets.length, 2)
})

test("edits and removals are shown, also those from before a page was read", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const message = world.message("wrong price", olga)
  world.socket.event("message_added", { message })
  world.socket.event("message_updated", { message: { ...message, text: "right price" }, edited_at: "2026-01-20T17:00:00+00:00" })
  assert.deepEqual(texts(chat.messages), ["hello", "right price"])
  assert.equal(chat.messages[1]?.edited_at, "2026-01-20T17:00:00+00:00")
  world.answer = ({ path }) => {
    if (!path.includes("/messages?")) return undefined
    const edits = [{ message_index: message.message_index, edited_at: "2026-01-20T17:00:00+00:00", redacted: true }]
    return { status: 200, body: { messages: [{ ...message, text: "" }], has_more: false, edits } }
  }
  await chat.renewLinks(message)
  assert.equal(chat.messages[1]?.redacted, true)
})

test("an edit is not undone by a page that was read before it", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const old = world.message("old and wrong", olga, { message_index: -1 })
  const edited = { message: { ...old, text: "" }, edited_at: "2026-01-20T17:00:00+00:00", redacted: true }
  chat.hasOlder = true
  world.answer = () => ({ status: 200, body: { messages: [old], has_more: false } })
  // The server has read the page, then the message is removed, then the page arrives.
  const page = chat.older()
  world.socket.event("message_updated", edited)
  await page
  assert.deepEqual(texts(chat.messages), ["", "hello"])
  assert.equal(chat.messages[0]?.redacted, true)
  await chat.renewLinks(old)
  assert.equal(chat.messages[0]?.redacted, true)
})

test("a removed message is not unread", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const message = world.message("secret", olga)
  world.socket.event("message_added", { message })
  assert.equal(chat.unread, 1)
  const removed = { ...message, text: "" }
  world.socket.event("message_updated", { message: removed, edited_at: "2026-01-20T17:00:00+00:00", redacted: true })
  assert.equal(chat.unread, 0)
})

test("a hidden tab is connected only if it leads or shows the chat", async () => {
  const world = new World()
  const first = await world.liveChat()
  first.stop()
  let lead = (): void => {}
  world.locks = {
    request: (_name: string, _options: unknown, f: () => Promise<void>) => {
      if (typeof f !== "function") return (_options as () => Promise<void>)()
      return new Promise<void>(resolve => (lead = () => resolve(f())))
    },
  } as unknown as LockManager
  world.visible = false
  const chat = world.chat()
  chat.setShown(false)
  await world.settle()
  assert.equal(chat.state, "idle")
  world.visible = true
  world.fire("visibilitychange")
  await world.settle()
  assert.equal(chat.state, "connecting")
  world.visible = false
  world.fire("visibilitychange")
  assert.equal(chat.state, "idle")
  lead()
  await world.settle()
  assert.equal(chat.state, "connecting")
  assert.equal(chat.leads, true)
})

test("the server's sign-out is for anonymous visitors only: users of the site may have other devices", async () => {
  for (const [id, requests] of [[2 ** 52 + 1, 1], [7, 0]] as const) {
    const world = new World()
    const user = { ...visitor, id }
    world.answer = ({ path }) =>
      path === "/api/visitors" ? { status: 201, body: { token: "t1", user, chat: record() } } : undefined
    const chat = await world.liveChat()
    chat.signOut()
    await world.settle()
    assert.equal(world.requests.filter(({ path }) => path === "/api/sign-out").length, requests)
  }
})

test("operators learn on which page a visitor began, and of each page after it", async () => {
  const world = new World()
  const chat = await world.liveChat()
  const context = { url: "https://shop.example/", title: "A page", referrer: "", language: "en", timezone: "UTC" }
  assert.deepEqual(world.requests[0]?.body, { source: "lk", context })
  assert.deepEqual(world.socket.commands("page_viewed"), [])
  world.url = "https://shop.example/cart"
  world.socket.event("pong", { n: 1 })
  world.socket.event("pong", { n: 2 })
  const cart = { url: "https://shop.example/cart", title: "A page", referrer: "" }
  assert.deepEqual(world.socket.commands("page_viewed"), [cart])
  chat.stop()
  world.chat()
  await world.settle()
  world.socket.accept()
  assert.deepEqual(world.socket.commands("page_viewed"), [cart])
})

/** An anonymous visitor who has written, and the site's token of that person. */
async function anonymous(): Promise<{ world: World; chat: Chat; token: string; refusals: number[] }> {
  const world = new World()
  const guest = { ...visitor, id: 2 ** 52 + 1 }
  const ann = { ...visitor, id: 9, firstname: "Ann" }
  const token = `x.${btoa(JSON.stringify({ sub: "9", role: "user" }))}.x`
  const refusals: number[] = []
  world.answer = ({ path, token: bearer, body }) => {
    if (path !== "/api/visitors") return undefined
    if (!bearer || bearer === "t1") return { status: 201, body: { token: "t1", user: guest, chat: record() } }
    const given = (body as { anonymous?: string }).anonymous
    const status = given ? refusals.shift() : undefined
    if (status === 0) throw new TypeError("Failed to fetch")
    if (status) return { status, body: { error: { code: "not_allowed", detail: "", path: "anonymous" } } }
    return { status: 200, body: { token: "t2", user: ann, chat: record(given ? "c1" : "c2", "open") } }
  }
  return { world, chat: await world.liveChat(), token, refusals }
}

const visits = (world: World): (string | undefined)[] =>
  world.requests
    .filter(({ path }) => path === "/api/visitors")
    .map(({ body }) => (body as { anonymous?: string }).anonymous)

test("a visitor who signs in keeps the conversation, which stays in view", async () => {
  const { world, chat, token } = await anonymous()
  const other = world.chat()
  await world.settle()
  chat.identify(token)
  assert.deepEqual([texts(chat.messages), chat.state], [["hello"], "connecting"])
  await world.settle()
  assert.deepEqual(visits(world), [undefined, "t1"])
  assert.deepEqual(texts(chat.messages), ["hello"])
  assert.equal(chat.me?.id, 9)
  // The other tab goes on as the same person, without being signed out.
  assert.equal(other.me?.id, 9)
  assert.deepEqual(world.sockets.slice(-2).map(socket => socket.url), Array(2).fill("ws://chat.test/ws/chats/c1?after=0"))
  assert.deepEqual(world.sockets.slice(-2).map(socket => socket.protocols[1]), Array(2).fill("bearer.t2"))
  assert.deepEqual(
    [...world.storage.items.keys()].filter(key => key.endsWith("former")),
    [],
  )
})

test("a tab that is signed out before it hears of the hand-over goes on all the same", async () => {
  const { world, chat, token } = await anonymous()
  world.channelDelay = 1_000
  const other = world.chat()
  await world.settle()
  const socket = world.socket
  socket.accept()
  chat.identify(token)
  await world.settle()
  socket.lose(4410)
  await world.settle()
  assert.deepEqual([other.me?.id, other.state], [9, "connecting"])
  assert.equal(world.socket.protocols[1], "bearer.t2")
})

test("a tab that hears of the hand-over before the storage has it waits for that", async () => {
  const { world, chat, token } = await anonymous()
  const other = world.chat()
  await world.settle()
  const get = world.storage.getItem
  world.storage.getItem = key => (key.endsWith("visit") ? null : get(key))
  chat.identify(token)
  await world.settle()
  assert.equal(other.me, null)
  world.storage.getItem = get
  const key = [...world.storage.items.keys()].find(each => each.endsWith(".visit"))
  world.fire("storage", { key })
  await world.settle()
  assert.deepEqual([other.me?.id, other.state], [9, "connecting"])
})

test("what waits to be sent is sent after the sign-in, with the same client_id", async () => {
  const { world, chat, token } = await anonymous()
  world.socket.lose()
  const { id } = chat.send("on its way")
  chat.identify(token)
  await world.settle()
  world.socket.accept()
  assert.equal(world.socket.commands("send_message")[0]?.["client_id"], id)
})

test("whoever signs in while an anonymous visit is on its way is the user of the site", async () => {
  const { world, chat, token } = await anonymous()
  chat.stop()
  world.storage.clear()
  const after = world.chat()
  after.send("who am I?")
  after.identify(token)
  await world.settle()
  assert.equal(after.me?.id, 9)
  assert.equal(world.socket.protocols[1], "bearer.t2")
})

test("a hand-over that the server refuses leaves the old chat behind", async () => {
  const { world, chat, token, refusals } = await anonymous()
  refusals.push(403)
  chat.identify(token)
  await world.settle()
  assert.deepEqual(visits(world), [undefined, "t1", undefined])
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c2?after=0")
  assert.equal(chat.me?.id, 9)
})

test("a hand-over that a lost network or a reload interrupts is done later", async () => {
  const { world, chat, token, refusals } = await anonymous()
  refusals.push(0)
  chat.identify(token)
  await world.settle()
  assert.equal(chat.me, null)
  chat.stop()
  const after = world.chat(() => Promise.resolve(token))
  // Also while the chat is not shown: operators see the name.
  after.setShown(false)
  await world.settle()
  assert.deepEqual(visits(world), [undefined, "t1", "t1"])
  assert.deepEqual([after.me?.id, texts(after.messages)], [9, ["hello"]])
})

test("a page that is opened after the sign-in hands the chat over", async () => {
  const { world, chat, token } = await anonymous()
  chat.stop()
  const after = world.chat(() => Promise.resolve(token))
  await world.settle()
  assert.deepEqual(visits(world), [undefined, "t1"])
  assert.equal(after.me?.id, 9)
})

test("messages of the former owner become those of the new one", async () => {
  const world = new World()
  const chat = await world.liveChat()
  world.socket.event("message_added", { message: world.message("yes?", olga) })
  const owner_user = { ...visitor, id: 9, firstname: "Ann" }
  world.socket.event("chat_updated", { chat: { ...record(), owner_user } })
  assert.deepEqual(chat.messages.map(({ user }) => user), [owner_user, olga])
})
