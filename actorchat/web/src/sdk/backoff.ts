const FIRST = 500
const LONGEST = 30_000

/** Returns how many milliseconds to wait before attempt number `attempt` (from 0) in a row: full jitter. */
export function backoff(attempt: number, random: () => number): number {
  return Math.ceil(random() * Math.min(LONGEST, FIRST * 2 ** attempt))
}
