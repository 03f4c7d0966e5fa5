import type { Environment } from "./environment.ts"

const CHANGE_EVERY = 16

/** Calls the handlers of one object's events. `change` is called at most once in 16 ms. */
export class Emitter<Events extends { [Name in keyof Events]: (...args: never[]) => void }> {
  #env: Environment
  #beforeChange: () => void
  #handlers = new Map<keyof Events, Set<(...args: never[]) => void>>()
  #timer = 0
  #stopped = false

  constructor(env: Environment, beforeChange: () => void = () => {}) {
    this.#env = env
    this.#beforeChange = beforeChange
  }

  on<Name extends keyof Events>(event: Name, handler: Events[Name]): () => void {
    const handlers = this.#handlers.get(event) ?? new Set()
    this.#handlers.set(event, handlers.add(handler))
    return () => handlers.delete(handler)
  }

  emit<Name extends keyof Events>(event: Name, ...args: Parameters<Events[Name]>): void {
    for (const handler of [...(this.#handlers.get(event) ?? [])]) {
      try {
        ;(handler as (...args: unknown[]) => void)(...args)
      } catch (error) {
        // A fault in one handler must not keep the others from the event.
        this.#env.setTimeout(() => {
          throw error
        }, 0)
      }
    }
  }

  changed(): void {
    if (this.#timer || this.#stopped) return
    this.#timer = this.#env.setTimeout(() => {
      this.#timer = 0
      this.#beforeChange()
      this.emit("change" as keyof Events, ...([] as unknown as Parameters<Events[keyof Events]>))
    }, CHANGE_EVERY)
  }

  stop(): void {
    this.#stopped = true
    this.#env.clearTimeout(this.#timer)
    this.#handlers.clear()
  }
}
