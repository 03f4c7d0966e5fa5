import type { LaterApi } from "./api.ts"
import { PERIOD, SPAN, type Sample } from "./series.ts"

/** Takes the numbers of the server again and again, and keeps those of the last quarter of an hour in memory.

It begins when it is first looked at, and ends when nobody has looked for as long as it keeps numbers. */
export class Sampler {
  samples: readonly Sample[] = []
  /** Why the last numbers could not be had. */
  error: unknown = null
  #api: LaterApi
  #changed: () => void
  #timer = 0
  #looked = 0
  #isTaking = false

  constructor(api: LaterApi, changed: () => void) {
    this.#api = api
    this.#changed = changed
  }

  /** Keeps taking numbers. Called while the page with the charts is shown. */
  look(): void {
    this.#looked = Date.now()
    if (this.#timer) return
    this.#timer = setInterval(() => void this.#take(), PERIOD) as unknown as number
    void this.#take()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = 0
  }

  async #take(): Promise<void> {
    if (Date.now() - this.#looked > SPAN) return this.stop()
    // A slow answer must not lead to more requests.
    if (this.#isTaking) return
    this.#isTaking = true
    try {
      const numbers = await this.#api.numbers()
      const now = Date.now()
      this.samples = [...this.samples.filter(({ at }) => at > now - SPAN && at < now), { at: now, numbers }]
      this.error = null
    } catch (error) {
      this.error = error
    }
    this.#isTaking = false
    this.#changed()
  }
}
