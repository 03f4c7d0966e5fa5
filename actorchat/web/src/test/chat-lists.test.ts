import assert from "node:assert/strict"
import { test } from "node:test"
import { ChatLists, type Tab } from "../console/chat-lists.ts"
import type { ChatSummary } from "../sdk/desk-types.ts"
import { olga, record } from "./world.ts"

const jan = { ...olga, id: 2 }
const at = (minute: number): string => `2026-01-20T16:${String(minute).padStart(2, "0")}:00+00:00`

const chat = (uuid: string, minute: number, change: Partial<ChatSummary["chat"]> = {}, waits = true): ChatSummary => ({
  chat: { ...record(uuid), ...change },
  last: null,
  unread: 1,
  waiting_since: waits ? at(minute) : null,
  activity: at(minute),
  created: at(0),
  tags: [],
  viewers: [],
  closed: null,
})
const open = { status: "open", operator_user: olga } as const
const closed = { status: "closed" } as const

/** The keys of a tab's lines. */
function keys(lists: ChatLists, tab: Tab): string[] {
  return Array.from({ length: lists.size(tab) }, (_, index) => lists.at(tab, index)?.key ?? "")
}

function listsOf(...chats: ChatSummary[]): ChatLists {
  const lists = new ChatLists()
  lists.update(chats, olga.id, "")
  return lists
}

test("new chats and the operator's turn are ordered by wait, the rest by activity", () => {
  const lists = listsOf(
    chat("b", 2),
    chat("a", 1),
    chat("e", 5, open),
    chat("d", 4, open),
    chat("f", 6, open, false),
    chat("g", 7, open, false),
    chat("o", 8, { status: "open", operator_user: jan }),
    chat("x", 9, closed, false),
  )
  assert.deepEqual(keys(lists, "new"), ["a", "b"])
  assert.deepEqual(keys(lists, "mine"), ["yourTurn", "d", "e", "theirTurn", "g", "f"])
  assert.deepEqual(keys(lists, "all"), ["o", "g", "f", "e", "d", "b", "a"])
  assert.deepEqual(keys(lists, "closed"), ["x"])
  assert.deepEqual([lists.count("mine"), lists.queued, lists.due, lists.longestWait], [4, 2, 6, at(1)])
  for (const tab of ["new", "mine", "all", "closed"] as const) {
    for (const [index, key] of keys(lists, tab).entries()) {
      if (!key.endsWith("Turn")) assert.equal(lists.indexOf(tab, key), index, `${key} of ${tab}`)
    }
  }
})

test("after any changes the lists are those of a fresh start", () => {
  const lists = new ChatLists()
  let seed = 1
  const random = (n: number): number => (seed = (seed * 48271) % 2147483647) % n
  const states = [{}, open, closed, { status: "open", operator_user: jan }, { widget: { source: "ru" } }] as const
  let chats: ChatSummary[] = []
  for (let step = 0; step < 300; step++) {
    const made = chat(`c${random(20)}`, random(6), states[random(states.length)], random(2) > 0)
    chats = [...chats.filter(other => other.chat.uuid !== made.chat.uuid), made]
    if (random(10) === 0) chats = chats.slice(1)
    const [operator, source] = [step < 200 ? olga.id : jan.id, step % 100 < 50 ? "" : "ru"]
    lists.update(chats, operator, source)
    const fresh = new ChatLists()
    fresh.update(chats, operator, source)
    for (const tab of ["new", "mine", "all", "closed"] as const) assert.deepEqual(keys(lists, tab), keys(fresh, tab))
    assert.deepEqual([lists.due, lists.queued, lists.longestWait], [fresh.due, fresh.queued, fresh.longestWait])
  }
})

test("a held list keeps its order, shows what is new in its chats, and counts those that belong elsewhere", () => {
  const [a, b, c] = [chat("a", 3), chat("b", 2), chat("c", 1)]
  const lists = listsOf(a, b, c)
  lists.hold(true)
  const newer = chat("c", 9)
  const read = { ...a, unread: 0 }
  lists.update([read, b, newer, chat("d", 8)], olga.id, "")
  assert.deepEqual(keys(lists, "all"), ["a", "b", "c"])
  assert.deepEqual([lists.at("all", 2), lists.at("all", 0)].map(item => item?.kind === "chat" && item.summary), [newer, read])
  assert.equal(lists.moved, 2)
  lists.update([read, { ...b, chat: { ...b.chat, ...closed } }, newer, chat("d", 8)], olga.id, "")
  assert.deepEqual([keys(lists, "all"), lists.moved], [["a", "b", "c"], 3])
  lists.sort()
  assert.deepEqual([keys(lists, "all"), lists.moved], [["c", "d", "a"], 0])
  lists.hold(false)
  lists.update([read, newer, chat("d", 10)], olga.id, "")
  assert.deepEqual(keys(lists, "all"), ["d", "c", "a"])
})
