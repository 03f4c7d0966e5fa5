import assert from "node:assert/strict"
import { test } from "node:test"
import { admin as adminEn } from "../console/admin/locales/admin-en.ts"
import { admin as adminRu } from "../console/admin/locales/admin-ru.ts"
import { en as consoleEn } from "../console/locales/en.ts"
import { ru as consoleRu } from "../console/locales/ru.ts"
import { clean } from "../ui/clean.ts"
import { textsOf } from "../ui/i18n.ts"
import { linkify } from "../ui/linkify.ts"
import { en } from "../ui/locales/en.ts"
import { ru } from "../ui/locales/ru.ts"

const links = (text: string): (string | undefined)[] => linkify(text).flatMap(part => (part.href ? [part.href] : []))

test("the parts of a text are the whole text", () => {
  const text = "See https://shop.example/a?b=1, or www.shop.example. Mail: olga@shop.example!"
  assert.equal(linkify(text).map(part => part.text).join(""), text)
  assert.deepEqual(links(text), ["https://shop.example/a?b=1", "https://www.shop.example/", "mailto:olga@shop.example"])
})

test("punctuation around a link is not a part of it, brackets inside are", () => {
  assert.deepEqual(links("(see https://en.wiki.example/Lamp_(light))."), ["https://en.wiki.example/Lamp_(light)"])
  assert.deepEqual(links("“https://shop.example/x”"), ["https://shop.example/x"])
})

test("addresses that run code, open files or name no host are text", () => {
  for (const text of ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "https://", "vbscript:x", "http://["]) {
    assert.deepEqual(linkify(text), [{ text }])
  }
})

test("a link takes no quotes or angle brackets", () => {
  assert.deepEqual(links('<a href="https://a.example/"onclick="x">'), ["https://a.example/"])
})

test("invisible characters are removed, joined emoji stay", () => {
  assert.equal(clean("a\u202eb\u0000c\u200bd\ufeff\n\t"), "abcd\n\t")
  assert.equal(clean("👩‍👩‍👧"), "👩‍👩‍👧")
  assert.equal(clean("half \ud83d of an emoji"), "half  of an emoji")
})

test("plurals follow the language's categories", () => {
  const [english, russian] = [textsOf("en", en), textsOf("ru", ru)]
  assert.deepEqual([1, 2].map(count => english("unread", { count })), ["1 unread message", "2 unread messages"])
  assert.deepEqual(
    [1, 2, 5, 21].map(count => russian("newMessages", { count })),
    ["1 новое сообщение", "2 новых сообщения", "5 новых сообщений", "21 новое сообщение"],
  )
})

test("every language uses the parameters of the English text", () => {
  const parameters = (entry: string | object): string[] =>
    [...new Set(JSON.stringify(entry).match(/\{(\w+)\}/g) ?? [])].sort()
  for (const [english, russian] of [[en, ru], [consoleEn, consoleRu], [adminEn, adminRu]] as Record<string, string | object>[][]) {
    for (const [key, entry] of Object.entries(english ?? {})) {
      assert.deepEqual(parameters(russian?.[key] ?? ""), parameters(entry), key)
    }
  }
})
