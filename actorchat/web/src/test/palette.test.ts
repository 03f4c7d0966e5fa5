import assert from "node:assert/strict"
import { test } from "node:test"
import { fit, ranked } from "../console/dialogs/rank.ts"

test("a text fits best at its start, then at starts of words, then anywhere", () => {
  assert.equal(fit("Close the chat", "close"), 0)
  assert.equal(fit("Close the chat", "chat clo"), 1)
  assert.equal(fit("Close the chat", "lose"), 2)
  assert.equal(fit("Close the chat", "open"), null)
  assert.equal(fit("Close the chat", "close now"), null)
  assert.equal(fit("Close the chat", "  "), 0)
})

test("case, diacritics and the two forms of a letter don't matter", () => {
  assert.equal(fit("Marta López", "lopez"), 1)
  assert.equal(fit("Сохранить переписку", "ПЕРЕПИСКУ"), 1)
  assert.equal(fit("Ещё", "еще"), 0)
  assert.equal(fit("يوسف سالم", "سالم"), 1)
})

test("characters that mean something in patterns are only characters", () => {
  assert.equal(fit("a.b (c)", "(c"), 2)
  assert.equal(fit("abc", ".*"), null)
})

test("the best comes first, and equal ones stay in their order", () => {
  const items = ["Go to chats: All", "Block the visitor", "All keys", "Go to chats: New"]
  assert.deepEqual(ranked(items, text => text, "all"), ["All keys", "Go to chats: All"])
  assert.deepEqual(ranked(items, text => text, "go"), ["Go to chats: All", "Go to chats: New"])
  assert.deepEqual(ranked(items, text => text, ""), items)
})
