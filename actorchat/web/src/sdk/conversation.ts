import { ApiError, type Api, type Page } from "./api.ts"
import { backoff } from "./backoff.ts"
import { Emitter } from "./emitter.ts"
import type { Environment } from "./environment.ts"
import { Ended, Link, RetryAfter, type ServerEvent } from "./link.ts"
import type { Outbox } from "./outbox.ts"
import { Transcript } from "./transcript.ts"
import type {
  ChatEvents,
  ChatRecord,
  ChatStatus,
  Delivery,
  Message,
  PendingFile,
  PendingMessage,
  Reason,
  State,
  User,
} from "./types.ts"
import { Uploads } from "./uploads.ts"

export const PAGE = 50
const TYPING_EVERY = 700

/**
 * What the chat of a visitor and the room of an operator have in common: the messages, and how they are sent and marked.
 * The names of protected members begin with `_`: the build shortens such names.
 */
export abstract class Conversation {
  hasOlder = false
  loaded = false
  chat: ChatRecord | null = null
  people: User[] = []
  /** Whether this tab also sends the messages of tabs that are gone. */
  abstract readonly leads: boolean
  /** What the other side has received and read. */
  receipts = { delivered: -1, read: -1 }

  protected _env: Environment
  protected _side: User["role"]
  protected _outbox: Outbox
  protected _uploads: Uploads
  protected _events: Emitter<ChatEvents>
  protected _link: Link
  protected _transcript: Transcript
  /** The highest index that this side has read. */
  protected _read = -1
  protected _inFlight = ""
  #marked = { delivered: -1, read: -1 }
  #pausedUntil = 0
  #refusals = 0
  #lastState: State = "idle"
  #typed = { text: "", sent: "", at: 0, timer: 0 }

  protected constructor(env: Environment, api: Api, outbox: Outbox, side: User["role"]) {
    this._env = env
    this._side = side
    this._outbox = outbox
    this._transcript = new Transcript(side)
    this._events = new Emitter<ChatEvents>(env, () => this.#mark())
    this._uploads = new Uploads(env, api, outbox, refused => this._uploadToken(refused), () => this._pump())
    this._link = new Link(env, {
      prepare: () => this._prepare(),
      event: event => this._event(event),
      opened: () => this.#opened(),
      changed: () => this.#linkChanged(),
      ended: reason => this._mend(reason),
    })
  }

  get state(): State {
    return this._link.state
  }
  get reason(): Reason {
    return this._link.reason
  }
  get retryAt(): number {
    return this._link.retryAt
  }
  get lostAt(): number {
    return this._link.lostAt
  }
  get messages(): readonly Message[] {
    return this._transcript.messages
  }
  get pending(): readonly PendingMessage[] {
    return this._outbox.list
  }
  get status(): ChatStatus | null {
    return this.chat?.status ?? null
  }
  get unread(): number {
    return this._transcript.countOfOthers(this._read)
  }

  on<Name extends keyof ChatEvents>(event: Name, handler: ChatEvents[Name]): () => void {
    return this._events.on(event, handler)
  }

  send(text: string, { files = [], note = false }: { files?: (File | string)[]; note?: boolean } = {}): Delivery {
    const pending = files.map((file): PendingFile =>
      typeof file === "string"
        ? { name: "", size: 0, progress: 1, uuid: file }
        : { name: file.name, size: file.size, progress: 0, file },
    )
    const id = this._env.randomId()
    // The server refuses halves of surrogate pairs, which a field cuts off, and NUL.
    text = text.replace(/\p{Cs}|\0/gu, "\ufffd")
    const stored = this._outbox.add({ id, text, files: pending, ...(note && { note }) })
    if (!note) this.setTyping("")
    void this.#start(id)
    return { id, stored }
  }

  retry(id: string): void {
    const message = this._outbox.get(id)
    if (!message?.failed) return
    // Files that a reload has lost are left out.
    const files = message.files.filter(file => file.uuid || file.file)
    if (!files.length && !message.text) return
    // `undefined` replaces the stored failure.
    this._outbox.update(id, { files, failed: undefined } as Partial<PendingMessage>)
    if (this.state === "ended") this._link.retry()
    void this.#start(id)
  }

  discard(id: string): void {
    this._uploads.cancel(id)
    this._outbox.discard(id)
    if (this._inFlight === id) this._inFlight = ""
    this._pump()
  }

  markRead(): void {
    const newest = this._transcript.newestOfOthers()
    if (!newest || newest.message_index <= this._read) return
    this._read = newest.message_index
    this.#mark()
    this._events.changed()
  }

  setTyping(text: string): void {
    const typed = this.#typed
    typed.text = text
    if (typed.timer || text === typed.sent) return
    // A stop is sent at once: the server makes one up for a message anyway.
    const wait = text ? Math.max(0, typed.at + TYPING_EVERY - this._env.now()) : 0
    typed.timer = this._env.setTimeout(() => {
      typed.timer = 0
      if (typed.text === typed.sent) return
      if (!this._link.send("update_typing", { text: typed.text, stopped: !typed.text })) return
      typed.sent = typed.text
      typed.at = this._env.now()
    }, wait)
  }

  async older(): Promise<boolean> {
    const first = this.messages[0]
    if (!this.hasOlder || !first) return false
    this._takePage(await this._page(`before=${first.message_index}&limit=${PAGE}`))
    this._events.changed()
    return this.hasOlder
  }

  async renewLinks(message: Message): Promise<void> {
    const page = await this._page(`after=${message.message_index - 1}&limit=1`)
    for (const renewed of page.messages) this._transcript.replace(renewed)
    this._events.changed()
  }

  stop(): void {
    this._uploads.cancelAll()
    this._link.end("stopped")
    this._events.stop()
    this._env.clearTimeout(this.#typed.timer)
  }

  // ---- what the two sides do each in their way

  /** Returns the socket's address and token. A throw is a failed attempt; see `refusedAttempt`. */
  protected abstract _prepare(): Promise<{ url: string; token: string }>

  /** The server has refused the socket. Returns whether the next attempt can succeed. */
  protected abstract _mend(reason: Reason): Promise<boolean>

  /** Returns a valid token, another one than `refused`. */
  protected abstract _uploadToken(refused: string): Promise<string>

  /** Reads a page of the history. */
  protected abstract _page(query: string): Promise<Page>

  /** Whether the other side may be told what was received and read. */
  protected get _tells(): boolean {
    return true
  }

  /** Sends a message. Returns whether it is on its way: `added` or `notAdded` tells the outcome. */
  protected _deliver({ id, text, files }: PendingMessage): boolean {
    return this._link.send("send_message", { text, attachments: files.map(file => file.uuid), client_id: id })
  }

  /** Called before a message is sent: the connection may be needed only now. */
  protected _wish(): void {}

  // ---- events of the server

  #opened(): void {
    this._inFlight = ""
    this.#marked = { delivered: -1, read: -1 }
    this.#typed.sent = ""
    this._pump()
  }

  protected _event({ type, data }: ServerEvent): void {
    const { edited_at, redacted } = data as { edited_at?: string; redacted?: boolean }
    const message = { ...(data["message"] as Message), ...(edited_at && { edited_at }), ...(redacted && { redacted }) }
    const user = data["user"] as User
    switch (type) {
      case "message_added":
        return this._added(message, data["client_id"] as string | undefined)
      case "message_updated":
        this._transcript.replace(message)
        break
      case "message_not_added":
        return this.#notAdded(data)
      case "receipts":
        this.#receipts(data as { role: string; delivered: number; read: number })
        break
      case "chat_updated":
        this.chat = data["chat"] as ChatRecord
        this._transcript.give(this.chat.owner_user)
        break
      case "user_connected":
      case "user_disconnected":
        this.people = this.people.filter(other => other.id !== user.id || other.role !== user.role)
        if (type === "user_connected") this.people.push(user)
        break
      case "resync_required":
        // The server's history was replaced, as after restoring a backup. All of it follows.
        this._clearChat()
        break
      default:
        return
    }
    this._events.changed()
  }

  protected _added(message: Message, id: string | undefined): void {
    const isFresh = this._transcript.put(message)
    if (id) this._sent(id, message)
    if (isFresh) this._events.emit("message", message)
    this._pump()
  }

  /** The message is stored. */
  protected _sent(id: string, message: Message): void {
    this._outbox.stored(id, message)
    if (id !== this._inFlight) return
    this._inFlight = ""
    this.#refusals = 0
  }

  #notAdded(data: Record<string, unknown>): void {
    const id = data["client_id"] as string
    if (this._inFlight === id) this._inFlight = ""
    if (this._outbox.get(id)) {
      if (data["retryable"]) this._pause(((data["retry_after"] as number | null) ?? 0) * 1000)
      else this._refused(id, data["code"] as string, data["detail"] as string)
    }
    this._pump()
  }

  /** Sends nothing for a while, at least `minimum` ms. */
  protected _pause(minimum: number): void {
    const wait = Math.max(minimum, 500 + backoff(this.#refusals++, this._env.random))
    this.#pausedUntil = this._env.now() + wait
    this._env.setTimeout(() => this._pump(), wait)
  }

  protected _refused(id: string, code: string, detail: string): void {
    this._outbox.update(id, { failed: { code, detail } })
    this.#tellRefused(id)
    this._events.changed()
  }

  #tellRefused(id: string): void {
    const message = this._outbox.get(id)
    if (message?.failed) this._events.emit("refused", message)
  }

  #receipts({ role, delivered, read }: { role: string; delivered: number; read: number }): void {
    if (role !== this._side) {
      this.receipts = { delivered, read }
      return
    }
    this._read = Math.max(this._read, read)
    this.#marked.delivered = Math.max(this.#marked.delivered, delivered)
    this.#marked.read = Math.max(this.#marked.read, read)
  }

  /** Takes the messages of a page, and what it tells about those that were received and read. */
  protected _takePage({ messages, has_more }: Page): void {
    const receipts = { ...this.receipts }
    for (const message of messages) {
      const { type, status, user, message_index: index } = message
      this._transcript.put(message)
      if (type !== "standard" || status === "new") continue
      if (user?.role === this._side) {
        receipts.delivered = Math.max(receipts.delivered, index)
        if (status === "read") receipts.read = Math.max(receipts.read, index)
      } else if (status === "read") this._read = Math.max(this._read, index)
    }
    this.receipts = receipts
    this.hasOlder = has_more
  }

  protected _clearChat(): void {
    this._transcript.clear()
    this.hasOlder = false
    this._read = -1
    this.receipts = { delivered: -1, read: -1 }
    this._clearPeople()
    this._inFlight = ""
  }

  // ---- what is sent

  async #start(id: string): Promise<void> {
    this._wish()
    this._events.changed()
    await this._uploads.start(id)
    this.#tellRefused(id)
    this._pump()
  }

  protected _pump(): void {
    this._events.changed()
    if (this.state !== "live" || this._inFlight || this._env.now() < this.#pausedUntil) return
    const message = this._outbox.next(this.leads)
    if (message && this._deliver(message)) this._inFlight = message.id
  }

  #mark(): void {
    if (!this._tells) return
    const marked = this.#marked
    const newest = this._transcript.newestOfOthers()
    if (newest && newest.message_index > Math.max(marked.delivered, this._read)) {
      if (this._link.send("mark_message_delivered", { message_id: newest.id })) marked.delivered = newest.message_index
    }
    const read = this._transcript.newestOfOthers(this._read)
    if (read && read.message_index > marked.read) {
      if (this._link.send("mark_message_read", { message_id: read.id })) marked.read = read.message_index
    }
  }

  #linkChanged(): void {
    if (this.state !== "live") this._clearPeople()
    if (this.#lastState !== this.state) {
      this.#lastState = this.state
      this._events.emit("state", this.state)
      if (this.state === "ended") this._events.emit("ended", this.reason)
    }
    this._events.changed()
  }

  /** Nobody is known to be there without a connection. */
  protected _clearPeople(): void {
    this.people = []
  }
}

/** What a failed call means for the attempt to connect. */
export function refusedAttempt(error: unknown): Error {
  if (!(error instanceof ApiError)) return error as Error
  if (error.status === 429) return new RetryAfter(Math.max(error.retryAfter, 1000))
  if (error.isTemporary) return error
  const reasons: Record<number, Reason> = { 401: "not_authenticated", 404: "not_found" }
  return new Ended(reasons[error.status] ?? "not_allowed")
}
