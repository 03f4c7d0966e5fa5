import { Api, ApiError } from "./api.ts"
import { backoff } from "./backoff.ts"
import type { Environment } from "./environment.ts"
import type { Outbox } from "./outbox.ts"
import type { Refusal } from "./types.ts"

/** Uploads the files of pending messages, one at a time for each message, and again after a lost connection. */
export class Uploads {
  #env: Environment
  #api: Api
  #outbox: Outbox
  #token: (refused: string) => Promise<string>
  #changed: () => void
  #aborts = new Map<string, AbortController>()

  /** `token` returns the token to use; its argument is one that the server has refused, or "". */
  constructor(env: Environment, api: Api, outbox: Outbox, token: (refused: string) => Promise<string>, changed: () => void) {
    this.#env = env
    this.#api = api
    this.#outbox = outbox
    this.#token = token
    this.#changed = changed
  }

  /** Uploads what the message still needs. A failure that waiting does not mend makes the message a failed one. */
  async start(id: string): Promise<void> {
    if (this.#aborts.has(id)) return
    const abort = new AbortController()
    this.#aborts.set(id, abort)
    try {
      for (let index = 0; index < (this.#outbox.get(id)?.files.length ?? 0); index++) {
        await this.#upload(id, index, abort.signal)
      }
    } catch (error) {
      const { code, detail } = error as Refusal
      if (!abort.signal.aborted) this.#outbox.update(id, { failed: { code, detail } })
    } finally {
      if (this.#aborts.get(id) === abort) this.#aborts.delete(id)
    }
    if (!abort.signal.aborted) this.#changed()
  }

  cancel(id: string): void {
    this.#aborts.get(id)?.abort()
    this.#aborts.delete(id)
  }

  cancelAll(): void {
    for (const id of [...this.#aborts.keys()]) this.cancel(id)
  }

  async #upload(id: string, index: number, signal: AbortSignal): Promise<void> {
    let refused = ""
    for (let attempt = 0; !signal.aborted; attempt++) {
      const pending = this.#outbox.get(id)?.files[index]
      if (!pending || pending.uuid || !pending.file) return
      let token = ""
      try {
        token = await this.#token(refused)
        const show = (progress: number): void => {
          if (signal.aborted) return
          this.#outbox.setFile(id, index, { progress })
          this.#changed()
        }
        const { uuid } = await this.#api.upload(pending.file, token, show, signal)
        if (!signal.aborted) this.#outbox.setFile(id, index, { uuid, progress: 1 })
        return
      } catch (error) {
        if (!(error instanceof ApiError)) throw { code: "unreachable", detail: String(error) } satisfies Refusal
        if (error.status === 401 && token && !refused) refused = token
        else if (!error.isTemporary) throw error
        else await new Promise<void>(resolve => this.#env.setTimeout(resolve, 500 + backoff(attempt, this.#env.random)))
        if (!signal.aborted) this.#outbox.setFile(id, index, { progress: 0 })
      }
    }
  }
}
