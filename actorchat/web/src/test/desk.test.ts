import assert from "node:assert/strict"
import { test } from "node:test"
import { DeskFeed } from "../sdk/desk-feed.ts"
import type { ChatSummary } from "../sdk/desk-types.ts"
import { Session } from "../sdk/session.ts"
import type { ChatRecord } from "../sdk/types.ts"
import { olga, record, visitor, World, type Request } from "./world.ts"

const jan = { ...olga, id: 2, firstname: "Jan" }
const profile = { user: olga, login: "olga", rights: "operator", sources: ["lk"], capacity: 0, away: false }
const chatOf = (uuid: string, status: ChatRecord["status"] = "new", operator = status === "open" ? olga : null): ChatRecord => ({
  ...record(uuid, status),
  operator_user: operator,
})
const summary = (chat: ChatRecord): ChatSummary => ({
  chat,
  last: null,
  unread: 1,
  waiting_since: null,
  activity: "2026-01-20T16:31:04+00:00",
  created: "2026-01-20T16:31:04+00:00",
  tags: [],
  viewers: [],
  closed: null,
})

class Office {
  world = new World()
  chats = new Map([["c1", chatOf("c1")]])
  tokens: string[] = []
  notes: unknown[] = []
  /** The statuses of the answers to the next notes; 0 is no answer. */
  failures: number[] = []
  desk: DeskFeed

  constructor() {
    this.world.answer = request => this.answer(request)
    const token = (refused: string): Promise<string> => {
      this.tokens.push(refused)
      return Promise.resolve(`t${this.tokens.length}`)
    }
    this.desk = new DeskFeed(this.world.environment(), "http://chat.test", { token })
  }

  answer({ method, path, body }: Request): { status: number; body: unknown } | undefined {
    if (path === "/api/operators/me") return { status: 200, body: profile }
    const [, uuid, change] = /^\/api\/chats\/(\w+)(?:\/(\w+))?$/.exec(path) ?? []
    if (uuid && !change) return { status: 200, body: this.chats.get(uuid) }
    if (change === "accept") return { status: 200, body: chatOf(uuid as string, "open") }
    if (method === "POST" && change === "messages") {
      this.notes.push(body)
      const status = this.failures.shift()
      if (status === 0) throw new TypeError("Failed to fetch")
      if (status) return { status, body: { error: { code: "too_long", detail: "" } } }
      const note = this.world.message("a note", olga, { type: "system", type_role: "operator" })
      return { status: 201, body: note }
    }
    return undefined
  }

  /** Connects the feed, with a snapshot of these chats. */
  async live(...chats: ChatRecord[]): Promise<void> {
    await this.world.settle()
    for (const chat of chats) this.world.socket.event("chat_summary", summary(chat))
    this.world.socket.event("feed_ready", { complete: true })
    await this.world.advance(20)
  }
}

test("the feed shows the chats of the snapshot, and those that a reconnect misses are gone", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1"), chatOf("c2"))
  assert.deepEqual([desk.ready, desk.chats.length, desk.me?.login], [true, 2, "olga"])
  world.socket.lose()
  await world.advance(600)
  assert.equal(world.sockets.length, 2)
  await office.live(chatOf("c2"))
  assert.deepEqual(desk.chats.map(({ chat }) => chat.uuid), ["c2"])
})

test("of the chats that were closed meanwhile the first are forgotten, but for those that are shown or were listed", async () => {
  const office = new Office()
  const { desk, world } = office
  const number = 503
  const all = Array.from({ length: number }, (_, at) => `c${at}`)
  await office.live(...all.map(uuid => chatOf(uuid)))
  const [feed] = world.sockets
  office.chats.set("c0", chatOf("c0", "closed"))
  desk.room("c0")
  await world.settle()
  const page = { chats: [summary(chatOf("c1", "closed"))], next: null }
  for (const uuid of all) {
    feed?.event("chat_updated", { chat: chatOf(uuid, "closed") })
    if (uuid !== "c1") continue
    world.answer = () => ({ status: 200, body: page })
    await desk.list({ status: "closed" })
  }
  const kept = new Set(desk.chats.map(({ chat }) => chat.uuid))
  assert.deepEqual(all.filter(uuid => !kept.has(uuid)), ["c2", "c3"])
})

test("a room forgets old messages and reads them again", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1"))
  world.history = ["one", "two", "three"].map(text => world.message(text))
  const room = desk.room("c1")
  await world.settle()
  room.forget(2)
  assert.deepEqual([room.messages.map(({ text }) => text), room.hasOlder], [["two", "three"], true])
  await room.older()
  assert.equal(world.requests.at(-1)?.path, "/api/chats/c1/messages?before=1&limit=50")
  assert.deepEqual([room.messages.map(({ text }) => text), room.hasOlder], [["one", "two", "three"], false])
})

test("only chats after the snapshot are announced as new", async () => {
  const office = new Office()
  const announced: (string | null)[][] = []
  office.desk.on("chat", (chat, before) => announced.push([chat.uuid, chat.status, before?.status ?? null]))
  await office.live(chatOf("c1"))
  office.world.socket.event("chat_summary", summary(chatOf("c2")))
  office.world.socket.event("chat_updated", { chat: chatOf("c2", "open", jan) })
  office.world.socket.event("chat_summary", summary(chatOf("c2", "open", jan)))
  assert.deepEqual(announced, [["c2", "new", null], ["c2", "open", "new"]])
})

test("a token that is refused is asked for again, once", async () => {
  const office = new Office()
  const { world, tokens } = office
  await office.live()
  world.socket.lose(4401)
  await world.settle()
  assert.deepEqual(tokens, ["", "t1"])
  assert.deepEqual(world.socket.protocols, ["actorchat.v1.ext", "bearer.t2"])
  world.socket.lose(4401)
  await world.settle()
  assert.deepEqual([office.desk.state, office.desk.reason], ["ended", "not_authenticated"])
})

test("what a visitor writes is shown until they stop, or for a while", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1"))
  world.socket.event("typing_updated", { chat_id: "c1", user: visitor, text: "hel", stopped: false })
  assert.equal(desk.typing.get("c1"), "hel")
  world.socket.event("typing_updated", { chat_id: "c1", user: olga, text: "my own", stopped: false })
  assert.equal(desk.typing.get("c1"), "hel")
  await world.advance(8_100)
  assert.equal(desk.typing.size, 0)
})

test("a chat is read quietly until it is the operator's, and marks are sent only then", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1"))
  world.history = [world.message("hello")]
  const room = desk.room("c1")
  await world.settle()
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c1?after=0&quiet=1")
  world.socket.accept()
  room.markRead()
  room.setTyping("h")
  await world.advance(2_000)
  assert.deepEqual(world.socket.sent, [])
  const quiet = world.socket
  await desk.accept("c1")
  await world.settle()
  assert.equal(quiet.readyState, 3)
  assert.equal(world.socket.url, "ws://chat.test/ws/chats/c1?after=0")
  world.socket.accept()
  room.markRead()
  await world.advance(20)
  assert.deepEqual(world.socket.sent.map(({ type }) => type), ["mark_message_read"])
})

test("replies are sent one after the other, and again after a lost connection", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1", "open"))
  office.chats.set("c1", chatOf("c1", "open"))
  const room = desk.room("c1")
  await world.settle()
  world.socket.accept()
  const { id } = room.send("one")
  room.send("two")
  await world.settle()
  assert.deepEqual(world.socket.commands("send_message"), [{ text: "one", attachments: [], client_id: id }])
  assert.deepEqual(desk.unsent, ["c1"])
  world.socket.lose()
  await world.advance(600)
  world.socket.accept()
  assert.deepEqual(world.socket.commands("send_message").map(({ text }) => text), ["one"])
  await world.store(0)
  await world.store(1)
  assert.deepEqual([room.messages.map(({ text }) => text), room.pending.length, desk.unsent], [["one", "two"], 0, []])
})

test("a note goes by HTTP in its order, with its files, and is stored once", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1", "open"))
  const room = desk.room("c1")
  await world.settle()
  world.socket.accept()
  const { id } = room.send("a note", { files: [new File(["x"], "plan.txt")], note: true })
  room.send("after it")
  await world.settle()
  assert.deepEqual(world.socket.sent, [])
  office.failures = [503, 0]
  world.uploads[0]?.finish(201, { uuid: "f1" })
  await world.advance(5_000)
  const body = { text: "a note", attachments: ["f1"], client_id: id, type: "system", type_role: "operator" }
  assert.deepEqual(office.notes, [body, body, body])
  assert.deepEqual(room.messages.map(({ type, text }) => [type, text]), [["system", "a note"]])
  assert.deepEqual(world.socket.commands("send_message").map(({ text }) => text), ["after it"])
})

test("a note that is refused can be sent again, and waits in the browser's storage as a note", async () => {
  const office = new Office()
  const { desk, world } = office
  await office.live(chatOf("c1", "open"))
  const room = desk.room("c1")
  await world.settle()
  world.socket.accept()
  office.failures = [422]
  const { id } = room.send("a note", { note: true })
  await world.advance(20)
  assert.deepEqual([room.pending[0]?.failed?.code, room.pending[0]?.note], ["too_long", true])
  room.stop()
  const again = desk.room("c1")
  assert.deepEqual([again.pending[0]?.failed?.code, again.pending[0]?.note], ["too_long", true])
  await world.settle()
  world.socket.accept()
  again.retry(id)
  await world.advance(20)
  assert.deepEqual([again.pending, office.notes.length], [[], 2])
})

test("a session renews its token before the end, and once for all that ask", async () => {
  const world = new World()
  const calls: string[] = []
  world.answer = ({ path }) => {
    calls.push(path)
    return { status: 200, body: { token: `t${calls.length}`, expires_in: 900 } }
  }
  const session = new Session(world.environment(), "http://chat.test")
  await session.signIn("olga", "secret-word")
  assert.equal(await session.token(), "t1")
  await world.advance(850_000)
  assert.deepEqual(await Promise.all([session.token(), session.token()]), ["t2", "t2"])
  assert.equal(await session.token("t2"), "t3")
  assert.deepEqual(calls, ["/api/login", "/api/token", "/api/token"])
})
