/** Turns numbers of the server, taken one after the other, into the points of charts. Has no DOM. */
import type { CountUpTo, ServerNumbers } from "./types.ts"

/** Numbers of the server, and when the page got them, in milliseconds. */
export interface Sample {
  at: number
  numbers: ServerNumbers
}

/** A value at a time in milliseconds; null where the line breaks. */
export interface Point {
  at: number
  value: number | null
}

export type Pick = (numbers: ServerNumbers) => number

/** How much time charts show. */
export const SPAN = 15 * 60_000
/** The time between two samples. */
export const PERIOD = 5_000

/** Values of the moment. The line breaks where samples are missing. */
export function gauge(samples: readonly Sample[], pick: Pick): Point[] {
  return withGaps(samples, ({ at, numbers }) => ({ at, value: pick(numbers) }))
}

/** How much a counter grew between two samples, in `seconds` of time. It breaks where the server has started anew. */
export function rate(samples: readonly Sample[], pick: Pick, seconds: number): Point[] {
  return between(samples, (before, after) => ((pick(after) - pick(before)) / (after.time - before.time)) * seconds)
}

/** How much a counter grew from one sample to the next. */
export function growth(samples: readonly Sample[], pick: Pick): Point[] {
  return between(samples, (before, after) => pick(after) - pick(before))
}

/** The value below which the part `q` of all commits between two samples took, in milliseconds. */
export function commitTime(samples: readonly Sample[], q: number): Point[] {
  return between(samples, (before, after) => {
    const seconds = quantile(before.commit_seconds, after.commit_seconds, q)
    return seconds === null ? null : seconds * 1000
  })
}

/** The value below which the part `q` of what was counted since `before` lies. Within a bucket, values are taken as evenly spread. */
export function quantile(before: readonly CountUpTo[], after: readonly CountUpTo[], q: number): number | null {
  const counts = after.map(({ count }, index) => count - (before[index]?.count ?? 0))
  const wanted = (counts.at(-1) ?? 0) * q
  if (!wanted) return null
  const index = counts.findIndex(count => count >= wanted)
  const low = after[index - 1]?.limit ?? 0
  const high = after[index]?.limit
  // Of what is over the last limit, only that is known.
  if (high === null || high === undefined) return low
  const under = counts[index - 1] ?? 0
  return low + ((wanted - under) / ((counts[index] ?? 0) - under)) * (high - low)
}

function between(samples: readonly Sample[], value: (before: ServerNumbers, after: ServerNumbers) => number | null): Point[] {
  return withGaps(samples, ({ at, numbers }, before) => {
    if (!before || numbers.time <= before.time || numbers.messages_stored < before.messages_stored) return { at, value: null }
    return { at, value: value(before, numbers) }
  }).slice(1)
}

function withGaps(samples: readonly Sample[], point: (sample: Sample, before?: ServerNumbers) => Point): Point[] {
  return samples.flatMap((sample, index) => {
    const before = samples[index - 1]
    const isLate = before !== undefined && sample.at - before.at > 4 * PERIOD
    const made = point(sample, isLate ? undefined : before?.numbers)
    return isLate ? [{ at: before.at + PERIOD, value: null }, made] : [made]
  })
}

/** The next round number, so that the top of a chart is easy to read. */
export function roundUp(value: number, least: number): number {
  if (value <= least) return least
  const power = 10 ** Math.floor(Math.log10(value))
  return power * ([1, 2, 3, 5].find(step => step * power >= value) ?? 10)
}

/** The path of a line in a box of `width` and `height`. A value between two breaks is a dot. */
export function linePath(points: readonly Point[], since: number, top: number, width: number, height: number): string {
  let path = ""
  let isDrawing = false
  points.forEach(({ at, value }, index) => {
    if (value === null) {
      isDrawing = false
      return
    }
    const [x, y] = [((at - since) / SPAN) * width, height - (value / top) * height]
    path += `${isDrawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`
    if (!isDrawing && (points[index + 1]?.value ?? null) === null) path += "h0"
    isDrawing = true
  })
  return path
}

/** The point nearest to a time, if there is one within two periods. */
export function nearest(points: readonly Point[], at: number): Point | undefined {
  const [first] = points.filter(({ value }) => value !== null).sort((a, b) => Math.abs(a.at - at) - Math.abs(b.at - at))
  return first && Math.abs(first.at - at) <= 2 * PERIOD ? first : undefined
}
