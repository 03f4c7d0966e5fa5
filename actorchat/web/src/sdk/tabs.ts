import type { Environment } from "./environment.ts"

/** Agrees with the other tabs of the same page which of them leads, and passes small notes between them. */
export class Tabs {
  leads = false
  #env: Environment
  #name: string
  #changed: () => void
  #heard: (note: string) => void
  #channel: BroadcastChannel | null = null
  #resign: (() => void) | null = null

  constructor(env: Environment, name: string, changed: () => void, heard: (note: string) => void) {
    this.#env = env
    this.#name = name
    this.#changed = changed
    this.#heard = heard
  }

  join(): void {
    this.#channel = this.#env.channel?.(this.#name) ?? null
    if (this.#channel) this.#channel.onmessage = event => this.#heard(String(event.data))
    if (!this.#env.locks) {
      // Plain http pages have no locks. There each tab leads.
      this.#lead(true)
      return
    }
    const abort = new AbortController()
    this.#resign = () => abort.abort()
    void this.#env.locks
      .request(this.#name, { signal: abort.signal }, () => {
        this.#lead(true)
        return new Promise<void>(resolve => (this.#resign = resolve))
      })
      // Aborted before its turn came.
      .catch(() => {})
  }

  leave(): void {
    this.#resign?.()
    this.#resign = null
    this.#channel?.close()
    this.#channel = null
    this.#lead(false)
  }

  tell(note: string): void {
    this.#channel?.postMessage(note)
  }

  #lead(leads: boolean): void {
    if (this.leads === leads) return
    this.leads = leads
    this.#changed()
  }
}
