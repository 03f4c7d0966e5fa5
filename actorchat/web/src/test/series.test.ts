import assert from "node:assert/strict"
import { test } from "node:test"
import { commitTime, gauge, growth, linePath, nearest, PERIOD, quantile, rate, roundUp, type Sample, SPAN } from "../console/admin/series.ts"
import type { ServerNumbers } from "../console/admin/types.ts"

const START = 1_700_000_000_000

function sample(after: number, numbers: Partial<ServerNumbers>): Sample {
  const at = START + after * PERIOD
  return { at, numbers: { time: at / 1000, messages_stored: 0, commit_seconds: [], ...numbers } as ServerNumbers }
}

const values = (points: { value: number | null }[]): (number | null)[] => points.map(({ value }) => value)
const stored = ({ messages_stored }: ServerNumbers): number => messages_stored

test("a rate is the growth of a counter in the server's time", () => {
  const samples = [sample(0, { messages_stored: 10 }), sample(1, { messages_stored: 60 }), sample(2, { messages_stored: 60 })]
  assert.deepEqual(values(rate(samples, stored, 1)), [10, 0])
  assert.deepEqual(values(rate(samples, stored, 60)), [600, 0])
  assert.deepEqual(values(growth(samples, stored)), [50, 0])
})

test("a line breaks where samples are missing and where the server has started anew", () => {
  const samples = [0, 1, 9, 10].map(after => sample(after, { sockets: after, messages_stored: after }))
  assert.deepEqual(values(gauge(samples, ({ sockets }) => sockets)), [0, 1, null, 9, 10])
  assert.deepEqual(values(growth(samples, stored)), [1, null, null, 1])
  const restarted = [sample(0, { messages_stored: 7 }), sample(1, { messages_stored: 2 }), sample(2, { messages_stored: 3 })]
  assert.deepEqual(values(growth(restarted, stored)), [null, 1])
})

test("a clock that was set back makes a gap and no negative rate", () => {
  const samples = [sample(0, {}), sample(1, { time: 5, messages_stored: 1 }), sample(2, { time: 10, messages_stored: 6 })]
  assert.deepEqual(values(rate(samples, stored, 1)), [null, 1])
})

const buckets = (...counts: number[]): { limit: number | null; count: number }[] =>
  counts.map((count, index) => ({ limit: [0.001, 0.002, 0.004, null][index] ?? null, count }))

test("a quantile is found within its bucket, of what was counted between two samples", () => {
  const [before, after] = [buckets(100, 100, 100, 100), buckets(150, 200, 200, 200)]
  assert.equal(quantile(before, after, 0.5), 0.001)
  assert.equal(quantile(before, after, 0.75), 0.0015)
  assert.equal(quantile(before, after, 1), 0.002)
  assert.equal(quantile([], buckets(0, 0, 0, 5), 0.5), 0.004)
  assert.equal(quantile(after, after, 0.5), null)
  assert.deepEqual(values(commitTime([sample(0, { commit_seconds: before }), sample(1, { commit_seconds: after })], 0.75)), [1.5])
})

test("the top of a chart is a round number over the highest value", () => {
  assert.deepEqual([0, 0.4, 1, 1.2, 2.1, 4, 7, 10, 11, 250, 251].map(value => roundUp(value, 1)), [1, 1, 1, 2, 3, 5, 10, 10, 20, 300, 300])
})

test("a line is drawn in its box, and a value between two breaks is a dot", () => {
  const point = (part: number, value: number | null) => ({ at: START + SPAN * part, value })
  assert.equal(linePath([point(0, 0), point(0.5, 5), point(1, 10)], START, 10, 200, 100), "M0.0 100.0L100.0 50.0L200.0 0.0")
  assert.equal(linePath([point(0, null), point(0.5, 5), point(0.6, null)], START, 10, 200, 100), "M100.0 50.0h0")
  assert.equal(linePath([], START, 10, 200, 100), "")
})

test("the nearest point is found unless it is too far away or a break", () => {
  const points = [{ at: START, value: 1 }, { at: START + PERIOD, value: null }, { at: START + 2 * PERIOD, value: 3 }]
  assert.equal(nearest(points, START + PERIOD * 0.9)?.value, 1)
  assert.equal(nearest(points, START + PERIOD * 1.2)?.value, 3)
  assert.equal(nearest(points, START + PERIOD * 5), undefined)
  assert.equal(nearest([], START), undefined)
})
