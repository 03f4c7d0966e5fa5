import { ApiError, type Page } from "./api.ts"
import { Conversation, PAGE, refusedAttempt } from "./conversation.ts"
import type { DeskApi } from "./desk-api.ts"
import type { OperatorProfile, Room } from "./desk-types.ts"
import type { Environment } from "./environment.ts"
import type { ServerEvent } from "./link.ts"
import { Outbox } from "./outbox.ts"
import { openStore } from "./store.ts"
import type { ChatRecord, PendingMessage, Reason } from "./types.ts"

/** What a room needs of its desk. */
export interface DeskOfRoom {
  api: DeskApi
  server: string
  me: OperatorProfile
  /** Calls with a token, and once more if that one was refused. */
  authorized: <T>(call: (token: string) => Promise<T>) => Promise<T>
  token: (refused: string) => Promise<string>
  chat: (uuid: string) => ChatRecord | null
  stopped: (room: DeskRoom) => void
}

/** The key under which a room keeps its unsent messages in the browser's storage. */
export function outboxPrefix(server: string, operator: number, chat = ""): string {
  return `actorchat.${server}.desk.${operator}.${chat && `${chat}.`}`
}

/** Implements `Room` over an environment. */
export class DeskRoom extends Conversation implements Room {
  readonly leads = true
  readonly uuid: string

  #desk: DeskOfRoom
  #token = ""
  #isQuiet = true
  #stopped = false

  constructor(env: Environment, desk: DeskOfRoom, uuid: string) {
    const store = openStore(outboxPrefix(desk.server, desk.me.user.id, uuid), env.storage)
    super(env, desk.api, new Outbox(store, env.now), "operator")
    this.#desk = desk
    this.uuid = uuid
    this.chat = desk.chat(uuid)
    this._link.open()
  }

  get isMine(): boolean {
    return this.chat?.operator_user?.id === this.#desk.me.user.id && this.chat.status !== "closed"
  }

  override markRead(): void {
    if (this.isMine) super.markRead()
  }

  override setTyping(text: string): void {
    if (!this.#isQuiet) super.setTyping(text)
  }

  forget(kept: number): void {
    const newest = this.messages.slice(-kept)
    if (newest.length === this.messages.length) return
    this._transcript.clear()
    for (const message of newest) this._transcript.put(message)
    this.hasOlder = true
    this._events.changed()
  }

  reconnect(): void {
    if (!this.#stopped) this._link.retry()
  }

  override stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    super.stop()
    this.#desk.stopped(this)
  }

  // ---- what the desk tells

  online(): void {
    this._link.online()
  }

  offline(): void {
    this._link.offline()
  }

  /** The chat's record may have changed: its operator reads openly, others quietly. */
  update(chat: ChatRecord): void {
    this.chat = chat
    if (this.#isQuiet === this.isMine && this.state === "live") {
      this._link.close()
      this._link.open()
    }
    this._events.changed()
  }

  // ---- what differs from a visitor's chat

  protected override get _tells(): boolean {
    return !this.#isQuiet
  }

  protected _page(query: string): Promise<Page> {
    return this.#desk.authorized(token => this.#desk.api.messages(this.uuid, query, token))
  }

  protected _uploadToken(refused: string): Promise<string> {
    return this.#desk.token(refused)
  }

  protected async _prepare(): Promise<{ url: string; token: string }> {
    try {
      if (!this.loaded) await this.#load()
      this.#token = await this.#desk.token("")
    } catch (error) {
      throw refusedAttempt(error)
    }
    this.#isQuiet = !this.isMine
    const server = this.#desk.server.replace(/^http/, "ws")
    const quiet = this.#isQuiet ? "&quiet=1" : ""
    return { url: `${server}/ws/chats/${this.uuid}?after=${this._transcript.last}${quiet}`, token: this.#token }
  }

  async #load(): Promise<void> {
    const [page, chat] = await Promise.all([
      this._page(`limit=${PAGE}`),
      this.#desk.authorized(token => this.#desk.api.chat(this.uuid, token)),
    ])
    this._takePage(page)
    this.chat = chat
    this.loaded = true
    this._events.changed()
  }

  protected async _mend(reason: Reason): Promise<boolean> {
    if (reason !== "not_authenticated") return false
    try {
      await this.#desk.token(this.#token)
    } catch (error) {
      return error instanceof ApiError && error.isTemporary
    }
    return true
  }

  protected override _event(event: ServerEvent): void {
    if (event.type === "chat_updated") this.update(event.data["chat"] as ChatRecord)
    else super._event(event)
  }

  /** Notes go by HTTP: a socket sends standard messages only. */
  protected override _deliver(message: PendingMessage): boolean {
    if (!message.note) return super._deliver(message)
    void this.#store(message)
    return true
  }

  async #store({ id, text, files }: PendingMessage): Promise<void> {
    try {
      const attachments = files.map(file => file.uuid as string)
      const message = await this.#desk.authorized(token => this.#desk.api.note(this.uuid, { text, attachments, client_id: id }, token))
      // The socket may bring it first, or be lost. Without the history up to here it must not be shown.
      if (message.message_index === this._transcript.last + 1) this._transcript.put(message)
      this._sent(id, message)
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      if (this._inFlight === id) this._inFlight = ""
      if (error.isTemporary) this._pause(error.retryAfter)
      else this._refused(id, error.code, error.detail)
    }
    this._pump()
  }
}
