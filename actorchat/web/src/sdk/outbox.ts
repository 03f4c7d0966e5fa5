import type { Message, PendingFile, PendingMessage, Refusal } from "./types.ts"
import type { Store } from "./store.ts"

const PREFIX = "out."

interface Waiter {
  resolve: (message: Message) => void
  reject: (refusal: Refusal) => void
}

/**
 * The messages that are not stored yet. Each has a key of its own in the browser's storage, because tabs that write one
 * common list would overwrite each other's messages.
 */
export class Outbox {
  /** In the order in which they were sent. Replaced at every change. */
  list: PendingMessage[] = []
  #store: Store
  #now: () => number
  #waiters = new Map<string, Waiter>()
  #foreign = new Set<string>()

  constructor(store: Store, now: () => number) {
    this.#store = store
    this.#now = now
    this.#read(false)
  }

  add(added: Omit<PendingMessage, "sentAt">): Promise<Message> {
    // Two messages of the same millisecond keep their order.
    const last = this.list.at(-1)?.sentAt ?? 0
    const message = { ...added, sentAt: Math.max(this.#now(), last + 1) }
    const stored = new Promise<Message>((resolve, reject) => this.#waiters.set(added.id, { resolve, reject }))
    // A page that only sends does not wait for the outcome.
    stored.catch(() => {})
    this.#save(message)
    this.#put(message)
    return stored
  }

  get(id: string): PendingMessage | undefined {
    return this.list.find(message => message.id === id)
  }

  /** The message to send next: the first that has not failed, once its files are uploaded. */
  next(leads: boolean): PendingMessage | undefined {
    const ready = (message: PendingMessage): boolean => message.files.every(file => file.uuid)
    const first = this.list.find(
      message => !message.failed && (!this.#foreign.has(message.id) || (leads && ready(message))),
    )
    return first && ready(first) ? first : undefined
  }

  update(id: string, change: Partial<PendingMessage>): void {
    const message = this.get(id)
    if (!message) return
    const changed = { ...message, ...change }
    this.#save(changed)
    this.#put(changed)
  }

  /** Shows the progress of an upload; this is not written to storage. */
  setFile(id: string, index: number, change: Partial<PendingFile>): void {
    const message = this.get(id)
    if (!message) return
    const files = message.files.map((file, at) => (at === index ? { ...file, ...change } : file))
    if (change.uuid) this.update(id, { files })
    else this.#put({ ...message, files })
  }

  /** Returns whether the message was pending. */
  stored(id: string, message: Message): boolean {
    this.#waiters.get(id)?.resolve(message)
    return this.#drop(id)
  }

  discard(id: string): void {
    this.#waiters.get(id)?.reject({ code: "discarded", detail: "discarded" })
    this.#drop(id)
  }

  /** Reads what other tabs have written and removed. Only the leading tab sends what it finds. */
  sync(): void {
    this.#read(true)
  }

  clear(): void {
    for (const message of this.list) this.discard(message.id)
  }

  #read(foreign: boolean): void {
    const keys = new Set(this.#store.keys(PREFIX).map(key => key.slice(PREFIX.length)))
    for (const message of this.list) {
      if (!keys.has(message.id) && !this.#waiters.has(message.id)) this.#drop(message.id)
    }
    for (const id of keys) {
      if (this.get(id)) continue
      const message = parse(id, this.#store.get(PREFIX + id))
      if (!message) {
        this.#store.remove(PREFIX + id)
        continue
      }
      if (foreign) this.#foreign.add(id)
      else if (message.files.some(file => !file.uuid)) {
        message.failed ??= { code: "upload_interrupted", detail: "the upload was interrupted" }
      }
      this.#put(message)
    }
  }

  #save(message: PendingMessage): void {
    const files = message.files.map(({ name, size, uuid }) => ({ name, size, uuid }))
    this.#store.set(PREFIX + message.id, JSON.stringify({ ...message, files }))
  }

  #put(message: PendingMessage): void {
    this.list = [...this.list.filter(other => other.id !== message.id), message].sort((a, b) => a.sentAt - b.sentAt)
  }

  #drop(id: string): boolean {
    const known = this.get(id) !== undefined
    this.#waiters.delete(id)
    this.#store.remove(PREFIX + id)
    if (known) this.list = this.list.filter(message => message.id !== id)
    return known
  }
}

function parse(id: string, json: string | null): PendingMessage | null {
  try {
    const value = JSON.parse(json ?? "") as PendingMessage
    if (typeof value.text !== "string" || typeof value.sentAt !== "number" || !Array.isArray(value.files)) return null
    const files = value.files.map(({ name, size, uuid }) => ({
      name: String(name),
      size: Number(size),
      progress: uuid ? 1 : 0,
      ...(uuid && { uuid: String(uuid) }),
    }))
    return { ...value, id, files }
  } catch {
    // Another version of the SDK, or somebody else, wrote this.
    return null
  }
}
