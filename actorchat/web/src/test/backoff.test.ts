import assert from "node:assert/strict"
import { test } from "node:test"
import { backoff } from "../sdk/backoff.ts"

test("the wait grows with the attempts, up to half a minute", () => {
  const longest = [0, 1, 2, 6, 20, 2000].map(attempt => backoff(attempt, () => 1))
  assert.deepEqual(longest, [500, 1000, 2000, 30_000, 30_000, 30_000])
})

test("the wait is anywhere between nothing and the longest one", () => {
  assert.equal(backoff(3, () => 0), 0)
  assert.equal(backoff(3, () => 0.25), 1000)
})
