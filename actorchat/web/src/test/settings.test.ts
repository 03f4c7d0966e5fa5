import assert from "node:assert/strict"
import { test } from "node:test"
import { languagesFor, settingsOf } from "../console/settings.ts"

const DEFAULTS = { theme: "", language: "", letters: true, alertNew: true, alertGiven: true, alertMessage: true, repeat: true }

test("without settings everything follows the device, and all alerts are on", () => {
  assert.deepEqual(settingsOf({}), DEFAULTS)
})

test("what was chosen stays, and what is no choice has its default", () => {
  const chosen = { ...DEFAULTS, theme: "dark", language: "ru", letters: false, repeat: false } as const
  assert.deepEqual(settingsOf({ ...chosen }), chosen)
  assert.deepEqual(settingsOf({ theme: "blue", language: 7, letters: "no", alertNew: null, other: true }), DEFAULTS)
})

test("a chosen language has the region that the browser prefers", () => {
  const settings = settingsOf({ language: "en" })
  assert.deepEqual(languagesFor(settings, ["ru-RU", "en-GB"]), ["en-GB", "en"])
  assert.deepEqual(languagesFor(settingsOf({}), ["ru-RU", "en-GB"]), ["ru-RU", "en-GB"])
})
