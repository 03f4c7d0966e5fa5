import { ApiError } from "./api.ts"
import { refusedAttempt } from "./conversation.ts"
import { DeskApi } from "./desk-api.ts"
import { DeskRoom, outboxPrefix } from "./desk-room.ts"
import type {
  ChatPage,
  ChatSummary,
  Desk,
  DeskEvents,
  DeskOptions,
  OperatorProfile,
  OperatorState,
  Room,
  SavedReply,
  VisitorInfo,
  WidgetConfig,
  WidgetInfo,
} from "./desk-types.ts"
import { Emitter } from "./emitter.ts"
import type { Environment } from "./environment.ts"
import { Link, type ServerEvent } from "./link.ts"
import { openStore } from "./store.ts"
import { Tabs } from "./tabs.ts"
import type { ChatRecord, Message, Reason, State, User } from "./types.ts"

const TYPING_LASTS = 8_000
const PAGE = 200
/** Chats that were closed while the feed was open are forgotten when there are more. */
const CLOSED = 500

/** Implements `Desk` over an environment. */
export class DeskFeed implements Desk {
  me: OperatorProfile | null = null
  ready = false
  unread = 0
  operators: readonly OperatorState[] = []
  typing: ReadonlyMap<string, string> = new Map()

  #env: Environment
  #server: string
  #options: DeskOptions
  #api: DeskApi
  #events: Emitter<DeskEvents>
  #link: Link
  #tabs: Tabs
  #rooms = new Set<DeskRoom>()
  #chats = new Map<string, ChatSummary>()
  #list: readonly ChatSummary[] | null = []
  #snapshot: Set<string> | null = new Set()
  /** The chats that the feed has seen closed, and nobody has listed since. */
  #closed = new Set<string>()
  #token = ""
  #lastState: State = "idle"
  #typingTimers = new Map<string, number>()
  #unlisten: (() => void)[]

  constructor(env: Environment, server: string, options: DeskOptions) {
    this.#env = env
    this.#server = server
    this.#options = options
    this.#api = new DeskApi(env, server)
    this.#events = new Emitter<DeskEvents>(env)
    this.#link = new Link(env, {
      prepare: () => this.#prepare(),
      event: event => this.#event(event),
      opened: () => (this.#snapshot = new Set()),
      changed: () => this.#linkChanged(),
      ended: reason => this.#mend(reason),
    })
    this.#tabs = new Tabs(env, `actorchat.${server}.desk`, () => this.#events.changed(), () => {})
    const each = (f: (link: Link | DeskRoom) => void) => () => [this.#link, ...this.#rooms].forEach(f)
    this.#unlisten = [
      env.listen("online", each(link => link.online())),
      env.listen("offline", each(link => link.offline())),
      env.listen("visibilitychange", each(link => env.isVisible() && link.online())),
    ]
    this.#tabs.join()
    this.#link.open()
  }

  get state(): State {
    return this.#link.state
  }
  get reason(): Reason {
    return this.#link.reason
  }
  get retryAt(): number {
    return this.#link.retryAt
  }
  get lostAt(): number {
    return this.#link.lostAt
  }
  get leads(): boolean {
    return this.#tabs.leads
  }
  get chats(): readonly ChatSummary[] {
    return (this.#list ??= [...this.#chats.values()])
  }
  get unsent(): readonly string[] {
    if (!this.me) return []
    const keys = openStore(outboxPrefix(this.#server, this.me.user.id), this.#env.storage).keys("")
    return [...new Set(keys.map(key => key.split(".")[0] as string))]
  }

  on<Name extends keyof DeskEvents>(event: Name, handler: DeskEvents[Name]): () => void {
    return this.#events.on(event, handler)
  }

  summary(uuid: string): ChatSummary | undefined {
    return this.#chats.get(uuid)
  }

  room(uuid: string): Room {
    if (!this.me) throw new Error("the operator is not known yet: wait until `me` is set")
    const room = new DeskRoom(
      this.#env,
      {
        api: this.#api,
        server: this.#server,
        me: this.me,
        authorized: call => this.#authorized(call),
        token: refused => this.#valid(refused),
        chat: uuid => this.#chats.get(uuid)?.chat ?? null,
        stopped: room => this.#rooms.delete(room),
      },
      uuid,
    )
    this.#rooms.add(room)
    return room
  }

  accept(uuid: string): Promise<ChatRecord> {
    return this.#change(uuid, "/accept")
  }
  giveBack(uuid: string): Promise<ChatRecord> {
    return this.#change(uuid, "/return")
  }
  close(uuid: string): Promise<ChatRecord> {
    return this.#change(uuid, "/close")
  }
  reopen(uuid: string): Promise<ChatRecord> {
    return this.#change(uuid, "/reopen")
  }
  async transfer(uuid: string, operatorId: number): Promise<ChatRecord> {
    return this.#took(await this.#authorized(token => this.#api.transfer(uuid, operatorId, token)))
  }
  async chat(uuid: string): Promise<ChatRecord> {
    return this.#took(await this.#authorized(token => this.#api.chat(uuid, token)))
  }

  async setTags(uuid: string, tags: string[]): Promise<string[]> {
    const stored = await this.#authorized(token => this.#api.setTags(uuid, tags, token))
    const known = this.#chats.get(uuid)
    if (known) this.#put({ ...known, tags: stored })
    return stored
  }

  async list(query: Parameters<Desk["list"]>[0]): Promise<ChatPage> {
    const page = await this.#authorized(token => this.#api.summaries(query, token))
    for (const summary of page.chats) {
      this.#put(summary)
      this.#closed.delete(summary.chat.uuid)
    }
    return page
  }

  visitor(uuid: string): Promise<VisitorInfo> {
    return this.#authorized(token => this.#api.visitor(uuid, token))
  }
  searchMessages(query: string): Promise<Message[]> {
    return this.#authorized(token => this.#api.searchMessages(query, token))
  }
  searchPeople(query: string): Promise<User[]> {
    return this.#authorized(token => this.#api.searchPeople(query, token))
  }
  savedReplies(): Promise<SavedReply[]> {
    return this.#authorized(token => this.#api.replies(token))
  }
  saveReply(reply: Parameters<Desk["saveReply"]>[0]): Promise<SavedReply> {
    return this.#authorized(token => this.#api.saveReply(reply, token))
  }
  deleteReply(id: string): Promise<void> {
    return this.#authorized(token => this.#api.deleteReply(id, token))
  }
  widget(source: string): Promise<WidgetInfo> {
    return this.#authorized(token => this.#api.widget(source, token))
  }
  setWidget(source: string, config: WidgetConfig): Promise<WidgetInfo> {
    return this.#authorized(token => this.#api.setWidget(source, config, token))
  }

  async setAway(away: boolean): Promise<void> {
    this.me = await this.#authorized(token => this.#api.setAway(away, token))
    this.#events.changed()
  }

  reconnect(): void {
    this.#link.retry()
    for (const room of this.#rooms) room.reconnect()
  }

  stop(): void {
    for (const room of [...this.#rooms]) room.stop()
    for (const unlisten of this.#unlisten) unlisten()
    for (const timer of this.#typingTimers.values()) this.#env.clearTimeout(timer)
    this.#tabs.leave()
    this.#link.end("stopped")
    this.#events.stop()
  }

  // ---- calls

  async #valid(refused: string): Promise<string> {
    if (!this.#token || this.#token === refused) this.#token = await this.#options.token(refused)
    return this.#token
  }

  async #authorized<T>(call: (token: string) => Promise<T>): Promise<T> {
    const token = await this.#valid("")
    try {
      return await call(token)
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error
      return call(await this.#valid(token))
    }
  }

  async #change(uuid: string, path: string): Promise<ChatRecord> {
    return this.#took(await this.#authorized(token => this.#api.chat(uuid, token, path)))
  }

  #took(chat: ChatRecord): ChatRecord {
    this.#chatUpdated(chat)
    return chat
  }

  // ---- the connection

  async #prepare(): Promise<{ url: string; token: string }> {
    try {
      this.me ??= await this.#authorized(token => this.#api.profile(token))
      const token = await this.#valid("")
      const sources = (this.#options.sources ?? []).map(source => `source=${source}`).join("&")
      return { url: `${this.#server.replace(/^http/, "ws")}/ws/operators${sources && `?${sources}`}`, token }
    } catch (error) {
      throw refusedAttempt(error)
    }
  }

  async #mend(reason: Reason): Promise<boolean> {
    if (reason !== "not_authenticated") return false
    try {
      await this.#valid(this.#token)
    } catch (error) {
      return error instanceof ApiError && error.isTemporary
    }
    return true
  }

  #linkChanged(): void {
    if (this.state !== "live" && this.typing.size) this.typing = new Map()
    if (this.#lastState !== this.state) {
      this.#lastState = this.state
      this.#events.emit("state", this.state)
    }
    this.#events.changed()
  }

  // ---- events of the server

  #event({ type, data }: ServerEvent): void {
    switch (type) {
      case "chat_summary":
        this.#put(data as unknown as ChatSummary)
        break
      case "chat_updated":
        this.#chatUpdated(data["chat"] as ChatRecord)
        break
      case "message_added":
      case "note_added":
        this.#events.emit("message", data["message"] as Message)
        break
      case "operator_updated":
        this.#operatorUpdated(data as unknown as OperatorState)
        break
      case "global_updated":
        this.unread = data["unread_chats"] as number
        break
      case "typing_updated":
        this.#types(data as { chat_id: string; user: User; text: string; stopped: boolean })
        break
      case "feed_ready":
        this.#snapshotEnds(data["complete"] as boolean)
        break
      default:
        return
    }
    this.#events.changed()
  }

  #put(summary: ChatSummary): void {
    const { chat } = summary
    const before = this.#chats.get(chat.uuid)?.chat ?? null
    this.#chats.set(chat.uuid, summary)
    this.#snapshot?.add(chat.uuid)
    this.#list = null
    if (chat.status !== "closed") this.#closed.delete(chat.uuid)
    else if (before && before.status !== "closed") this.#forgetClosed(chat.uuid)
    this.#chatChanged(chat, before)
    this.#events.changed()
  }

  /** Forgets the chat that was closed first if there are too many. */
  #forgetClosed(uuid: string): void {
    this.#closed.add(uuid)
    if (this.#closed.size <= CLOSED) return
    for (const first of this.#closed) {
      if ([...this.#rooms].some(room => room.uuid === first)) continue
      this.#closed.delete(first)
      this.#chats.delete(first)
      return
    }
  }

  #chatUpdated(chat: ChatRecord): void {
    const known = this.#chats.get(chat.uuid)
    // A new chat gets its summary in a moment.
    if (known) this.#put({ ...known, chat })
    else for (const room of this.#rooms) if (room.uuid === chat.uuid) room.update(chat)
  }

  #chatChanged(chat: ChatRecord, before: ChatRecord | null): void {
    if (before && before.status === chat.status && before.operator_user?.id === chat.operator_user?.id) return
    for (const room of this.#rooms) if (room.uuid === chat.uuid) room.update(chat)
    // The snapshot is what happened before.
    if (!this.#snapshot && chat.status !== "closed") this.#events.emit("chat", chat, before)
  }

  #operatorUpdated(operator: OperatorState): void {
    const { id } = operator.user
    const others = this.operators.filter(other => other.user.id !== id)
    this.operators = [...others, operator]
    if (this.me?.user.id === id) this.me = { ...this.me, user: operator.user, away: operator.away ?? false }
  }

  #types({ chat_id, user, text, stopped }: { chat_id: string; user: User; text: string; stopped: boolean }): void {
    if (user.role !== "user") return
    this.#env.clearTimeout(this.#typingTimers.get(chat_id) ?? 0)
    this.#typingTimers.delete(chat_id)
    const typing = new Map(this.typing)
    if (stopped) typing.delete(chat_id)
    else {
      typing.set(chat_id, text)
      const stop = (): void => this.#types({ chat_id, user, text: "", stopped: true })
      this.#typingTimers.set(chat_id, this.#env.setTimeout(stop, TYPING_LASTS))
    }
    this.typing = typing
    this.#events.changed()
  }

  #snapshotEnds(complete: boolean): void {
    const seen = this.#snapshot
    this.#snapshot = null
    if (!complete) void this.#readAll()
    else {
      for (const [uuid, { chat }] of this.#chats) if (chat.status !== "closed" && !seen?.has(uuid)) this.#chats.delete(uuid)
      this.#list = null
      this.ready = true
    }
  }

  /** Reads the chats that are not closed, if the feed's snapshot could not have all of them. */
  async #readAll(): Promise<void> {
    try {
      for (const status of ["new", "open"] as const) {
        let cursor: string | undefined
        do {
          const page = await this.list({ status, limit: PAGE, ...(cursor && { cursor }) })
          cursor = page.next ?? undefined
        } while (cursor)
      }
    } catch {
      // The next connection tries again. The newest chats are there.
    }
    this.ready = true
    this.#events.changed()
  }
}
