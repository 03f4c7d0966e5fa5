import { Api, ApiError, type Page, type Visit } from "./api.ts"
import { Conversation, PAGE, refusedAttempt } from "./conversation.ts"
import type { Environment } from "./environment.ts"
import { FORMER, identityOf, isAnonymous, isOf, loadIdentity, saveIdentity, type Identity } from "./identity.ts"
import type { ServerEvent } from "./link.ts"
import { Outbox } from "./outbox.ts"
import { openStore, type Store } from "./store.ts"
import { Tabs } from "./tabs.ts"
import type { BrowserChat, Message, Reason, User } from "./types.ts"

const TYPING_LASTS = 8_000
/** How long the leading tab leaves messages of another tab to that tab. */
const ADOPT_AFTER = 5_000

interface Options {
  source: string
  server: string
  token: (() => Promise<string>) | undefined
  pages: boolean
}

/** Implements `BrowserChat` over an environment. */
export class Chat extends Conversation implements BrowserChat {
  typing: readonly User[] = []

  #options: Options
  #api: Api
  #store: Store
  #tabs: Tabs
  #identity: Identity | null
  /** The anonymous visitor whose chats the user of the site is to get. */
  #former: Identity | null
  #isVerified: boolean
  #shown = true
  #stopped = false
  #typingTimers = new Map<number, number>()
  #viewed = ""
  #unlisten: (() => void)[]

  constructor(env: Environment, options: Options) {
    const name = `actorchat.${options.server}.${options.source}`
    const api = new Api(env, options.server)
    const store = openStore(`${name}.`, env.storage)
    super(env, api, new Outbox(store, env.now), "user")
    this.#options = options
    this.#api = api
    this.#store = store
    this.#identity = loadIdentity(store)
    this.#former = loadIdentity(store, FORMER)
    this.#isVerified = !options.token
    this.loaded = this.#identity === null && !options.token
    this.#tabs = new Tabs(env, name, () => this._wish(), note => this.#heard(note))
    this.#unlisten = [
      env.listen("online", () => this._link.online()),
      env.listen("visibilitychange", () => {
        this._wish()
        if (env.isVisible()) this._link.online()
      }),
      env.listen("offline", () => this._link.offline()),
      env.listen("storage", event => this.#storageChanged(event as StorageEvent)),
      // A page in the back/forward cache must not lead, and browsers keep no page with an open socket there.
      env.listen("pagehide", () => this.#suspend()),
      env.listen("pageshow", event => (event as PageTransitionEvent).persisted && this.#resume()),
    ]
    this.#tabs.join()
    this._wish()
  }

  get me(): User | null {
    return this.#identity?.user ?? null
  }
  get leads(): boolean {
    return this.#tabs.leads
  }

  override markRead(): void {
    const before = this._read
    super.markRead()
    if (this._read > before) this.#tabs.tell(`read ${this._read}`)
  }

  setShown(shown: boolean): void {
    if (this.#shown === shown) return
    this.#shown = shown
    this._wish()
  }

  reconnect(): void {
    if (this.state === "ended" && this.reason === "stopped") return
    if (this.#wanted()) this._link.retry()
    else this._link.close()
  }

  close(): Promise<void> {
    return this.#change("/close")
  }

  reopen(): Promise<void> {
    return this.#change("/reopen")
  }

  identify(token: string): void {
    this.#options.token = () => Promise.resolve(token)
    if (this.#identity && isOf(token, this.#identity.user)) return
    this.#becomeUser()
    this.#isVerified = false
    this.loaded = false
    this._link.close()
    this._wish()
  }

  signOut(): void {
    const identity = this.#identity
    this.#signedOut()
    this.#tabs.tell("sign-out")
    // The server's sign-out ends all sessions of the person. A user of the site may have others, on other devices.
    if (identity && isAnonymous(identity.user)) this.#api.signOut(identity.token).catch(() => {})
  }

  override stop(): void {
    this.#stopped = true
    for (const unlisten of this.#unlisten) unlisten()
    this.#tabs.leave()
    for (const timer of this.#typingTimers.values()) this._env.clearTimeout(timer)
    super.stop()
  }

  // ---- what is wanted, and how it is reached

  #wanted(): boolean {
    if (this.#stopped) return false
    if (this._outbox.list.some(message => !message.failed)) return true
    const known = this.#identity !== null || (this.#options.token !== undefined && (this.#shown || this.#former !== null))
    // Of the tabs that don't show the chat, the leading one is connected, and the one that the visitor looks at.
    return known && (this.#shown || this.#tabs.leads || this._env.isVisible())
  }

  protected override _wish(): void {
    if (this.#wanted()) this._link.open()
    else if (this.state !== "ended") this._link.close()
    this._pump()
  }

  protected async _prepare(): Promise<{ url: string; token: string }> {
    try {
      await this.#identified()
      if (!this.loaded) await this.#load()
    } catch (error) {
      throw refusedAttempt(error)
    }
    const { chat, token } = this.#identity as Identity
    const server = this.#options.server.replace(/^http/, "ws")
    return { url: `${server}/ws/chats/${chat}?after=${this._transcript.last}`, token }
  }

  /** Makes sure that there is a visitor with a valid token. */
  async #identified(): Promise<void> {
    const { token } = this.#options
    let current = ""
    if (!this.#isVerified && token) {
      // Another user may have signed in to the site since.
      current = await token()
      if (this.#identity && !isOf(current, this.#identity.user)) this.#becomeUser()
      this.#isVerified = true
    }
    if (!this.#identity) await this.#visit(current)
    else if (this._env.now() > this.#identity.renewAt) await this.#renew()
  }

  async #renew(): Promise<void> {
    try {
      await this.#visit((this.#identity as Identity).token)
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error
      await this.#expired()
    }
  }

  /** The token is refused: ask the site for a new one, or begin as a new anonymous visitor. */
  async #expired(): Promise<void> {
    if (!this.#options.token) this.#forget()
    await this.#visit("")
  }

  /** Gets a visitor: the one of that token, of the site's token, or a new anonymous one. */
  async #visit(token: string): Promise<void> {
    const before = this.#identity
    const site = this.#options.token
    const locks = this._env.locks
    const visit = async (): Promise<void> => {
      if (!before) {
        // Another tab may have got one meanwhile.
        const other = loadIdentity(this.#store)
        if (other && !this.#options.token) {
          this.#identity = other
          this.loaded = false
          return
        }
      }
      const own = token || ((await this.#options.token?.()) ?? "")
      const page = this.#options.pages ? this._env.page() : undefined
      const former = own ? this.#former : null
      const begin = (anonymous?: string): Promise<Visit> => this.#api.visit(this.#options.source, own, page, anonymous)
      const made = await begin(former?.token).catch((error: unknown) => {
        // What can't be handed over is left behind.
        if (former && error instanceof ApiError && !error.isTemporary) return begin()
        throw error
      })
      if (page && !before) this.#viewed = page.url
      const chat = await this.#chatOf(made)
      // Meanwhile the visitor may have signed in or out.
      if (this.#identity !== before || this.#options.token !== site) return
      this.#use(made, chat, former)
    }
    if (before || !locks) await visit()
    else await locks.request(`actorchat.${this.#options.server}.${this.#options.source}.visit`, visit)
  }

  /** The chat to show: the known one of the same visitor, else the newest one, which may be closed. */
  async #chatOf(made: Visit): Promise<string> {
    const before = this.#identity
    if (before && before.user.id === made.user.id) return before.chat
    if (this.#options.token && made.chat.status === "new") {
      const [newest] = await this.#api.newestChats(this.#options.source, made.token)
      if (newest) return newest.uuid
    }
    return made.chat.uuid
  }

  #use(made: Visit, chat: string, former: Identity | null = null): void {
    const before = this.#identity
    this.#identity = identityOf(made, chat, this._env.now())
    saveIdentity(this.#store, this.#identity)
    if (former) {
      this.#former = null
      saveIdentity(this.#store, null, FORMER)
    }
    if (before?.chat === chat) return
    // A conversation that was handed over stays in view.
    if (former?.chat !== chat) this._clearChat()
    this.loaded = false
    this.#tabs.tell("visit")
    this._events.changed()
  }

  async #load(): Promise<void> {
    try {
      const page = await this._page(`limit=${PAGE}`)
      this._takePage(page)
      this.chat = page.messages.at(-1)?.chat ?? this.chat
    } catch (error) {
      if (!(error instanceof ApiError) || (error.status !== 404 && error.status !== 403)) throw error
      // The chat was never used and is deleted, or it is another visitor's.
      this.#forget()
      await this.#visit("")
    }
    this.loaded = true
    this._events.changed()
  }

  protected _page(query: string): Promise<Page> {
    return this.#authorized((token, chat) => this.#api.messages(chat, query, token))
  }

  async #authorized<T>(call: (token: string, chat: string) => Promise<T>): Promise<T> {
    const { token, chat } = this.#identity as Identity
    try {
      return await call(token, chat)
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error
      await this.#expired()
      const identity = this.#identity as Identity | null
      if (!identity) throw error
      return call(identity.token, identity.chat)
    }
  }

  protected async _uploadToken(refused: string): Promise<string> {
    if (!this.#identity) await this.#identified()
    else if (this.#identity.token === refused) await this.#expired()
    return (this.#identity as Identity | null)?.token ?? ""
  }

  async #change(path: string): Promise<void> {
    if (!this.#identity) return
    this.chat = await this.#authorized((token, chat) => this.#api.chat(chat, token, path))
    this._events.changed()
  }

  protected async _mend(reason: Reason): Promise<boolean> {
    if (reason === "signed_out") {
      const other = loadIdentity(this.#store)
      if (other && other.user.id !== this.#identity?.user.id) {
        // Another tab has handed this visitor's chats over.
        this.#adopt(other)
        return true
      }
      this.#forget()
      this._outbox.clear()
      return false
    }
    if (reason !== "not_authenticated" && reason !== "not_found") return false
    if (reason === "not_authenticated" && this.#options.token) {
      try {
        await this.#visit("")
      } catch (error) {
        return error instanceof ApiError && error.isTemporary
      }
      return true
    }
    this.#forget()
    if (this.#wanted()) return true
    this.loaded = true
    this._link.close()
    return false
  }

  protected override _clearChat(): void {
    super._clearChat()
    this.chat = null
  }

  #forget(): void {
    this.#identity = null
    saveIdentity(this.#store, null)
    this._clearChat()
    this._events.changed()
  }

  /** The visitor has signed in to the site, and gets the chats of the anonymous one with the next visit. */
  #becomeUser(): void {
    if (!this.#identity || !isAnonymous(this.#identity.user)) return this.#forget()
    this.#former = this.#identity
    saveIdentity(this.#store, this.#former, FORMER)
    saveIdentity(this.#store, null)
    this.#identity = null
    this.#tabs.tell("hand-over")
  }

  #signedOut(): void {
    this.#former = null
    this._uploads.cancelAll()
    this.#options.token = undefined
    this.#isVerified = true
    this._outbox.clear()
    this.#forget()
    this.#store.clear()
    this.loaded = true
    this._link.close()
  }

  // ---- other tabs

  #heard(note: string): void {
    const [name, value] = note.split(" ")
    if (name === "sign-out") this.#signedOut()
    else if (name === "hand-over" && !this.#options.token) {
      // The server ends this socket in a moment. The tab that hands over tells when there is a visitor again.
      this.#identity = null
      this._link.close()
    } else if (name === "read") {
      this._read = Math.max(this._read, Number(value))
      this._events.changed()
    } else if (name === "visit") this.#adoptVisit()
  }

  #adoptVisit(): void {
    const identity = loadIdentity(this.#store)
    const known = this.#identity
    if (!identity || (identity.chat === known?.chat && identity.user.id === known.user.id) || this.#options.token) return
    this.#adopt(identity)
    this._link.close()
    this._wish()
  }

  #adopt(identity: Identity): void {
    this.#identity = identity
    this._clearChat()
    this.loaded = false
  }

  #storageChanged(event: StorageEvent): void {
    if (event.key?.includes(".out.")) {
      this._outbox.sync()
      this._events.changed()
      this._env.setTimeout(() => this._wish(), ADOPT_AFTER)
    } else if (event.key?.endsWith(".visit")) {
      // A note of another tab can be here before what that tab has stored.
      this.#adoptVisit()
    }
  }

  #suspend(): void {
    this.#tabs.leave()
    this._link.close()
  }

  #resume(): void {
    this._outbox.sync()
    this.#tabs.join()
    this._wish()
  }

  // ---- events of the server

  protected override _clearPeople(): void {
    super._clearPeople()
    this.typing = []
  }

  /** Reports another page of the site. Pages that are replaced without a load are noticed at the next event. */
  #reportPage(): void {
    if (!this.#options.pages || this.state !== "live") return
    const { url, title, referrer } = this._env.page()
    if (url !== this.#viewed && this._link.send("page_viewed", { url, title, referrer })) this.#viewed = url
  }

  protected override _event(event: ServerEvent): void {
    const { type, data } = event
    const user = data["user"] as User
    this.#reportPage()
    super._event(event)
    if (type === "user_disconnected") this.#types(user, true)
    else if (type === "typing_updated" && user.role === "operator") this.#types(user, data["stopped"] as boolean)
  }

  protected override _added(message: Message, id: string | undefined): void {
    const { user, type } = message
    if (message.message_index > this._transcript.last) this.chat = message.chat
    if (user?.role === "operator" && type === "standard") this.#types(user, true)
    super._added(message, id)
  }

  protected override _refused(id: string, code: string, detail: string): void {
    if (code === "chat_closed") void this.#startNewChat(id)
    else super._refused(id, code, detail)
  }

  /** Closed chats of this source are not reopened: the message goes to a new one. */
  async #startNewChat(id: string): Promise<void> {
    this._inFlight = id
    try {
      const made = await this.#authorized(token => this.#api.visit(this.#options.source, token))
      if (made.chat.uuid === this.#identity?.chat) throw new ApiError(409, null)
      this.#use(made, made.chat.uuid)
      this._link.close()
    } catch {
      super._refused(id, "chat_closed", "the chat is closed")
    }
    this._inFlight = ""
    this._wish()
  }

  #types(user: User, stopped: boolean): void {
    const timer = this.#typingTimers.get(user.id)
    if (timer !== undefined) this._env.clearTimeout(timer)
    this.#typingTimers.delete(user.id)
    const others = this.typing.filter(other => other.id !== user.id)
    if (!stopped) {
      // The stop can be lost with the connection of the operator.
      this.#typingTimers.set(user.id, this._env.setTimeout(() => this.#types(user, true), TYPING_LASTS))
    }
    if (stopped && others.length === this.typing.length) return
    this.typing = stopped ? others : [...others, user]
    this._events.changed()
  }
}
