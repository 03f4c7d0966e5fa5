import type { Desk, OperatorSession, Room, SavedReply, VisitorInfo, WidgetInfo } from "../sdk/desk-types.ts"
import type { Store } from "../sdk/store.ts"
import type { ChatRecord, Message, Refusal, User } from "../sdk/types.ts"
import { clean } from "../ui/clean.ts"
import type { Draft } from "../ui/composer.tsx"
import type { Limits } from "../ui/context.ts"
import type { Texts } from "../ui/i18n.ts"
import { nameOf } from "../ui/people.ts"
import type { Pages } from "./admin/pages.tsx"
import { ChatLists, type Tab } from "./chat-lists.ts"
import { focusSoon } from "./keys.ts"
import type { Language } from "./locales/en.ts"
import { languagesFor, parse, type Settings, settingsOf, showTheme } from "./settings.ts"
import { isNote } from "./system-texts.ts"
import { consoleTexts } from "./texts.ts"

export type AdminSection = "operators" | "tags" | "blocks" | "actors" | "metrics"
export type Section = "chats" | "sources" | "replies" | "settings" | AdminSection
type Menu = "me" | "more"
export type Dialog = "transfer" | "help" | "message" | "transcript" | "block" | "palette" | Menu | null

export type Mode = "reply" | "note"

/** What is being written in one chat. The texts survive a reload. */
export interface Writing extends Record<Mode, Draft> {
  mode: Mode
}

export interface Found {
  query: string
  messages: readonly Message[]
  people: readonly { user: User; chat: string }[]
}

const FIRST_ANONYMOUS_ID = 2 ** 52
/** Milliseconds between a visitor's message and a look at the page that they view. */
const VISITOR_AFTER = 1_000
/** Visitors whose pages are kept. */
const VISITORS = 50

/** The console's state and what its user can do. Every change calls `changed`. */
export class Console {
  t: Texts<Language>
  settings: Settings
  readonly server: string
  readonly desk: Desk
  readonly session: OperatorSession
  readonly store: Store
  readonly changed: () => void
  readonly leave: (why: "signed-out" | "ended") => void

  section: Section = "chats"
  pages: Pages | null = null
  pagesFailed = false
  tab: Tab = "new"
  source = ""
  selected = ""
  cursor = ""
  room: Room | null = null
  dialog: Dialog = null
  /** The message that the dialog `message` is about. */
  message: Message | null = null
  isCardOpen: boolean
  query = ""
  found: Found | null = null
  isSearching = false
  notice = ""
  race = ""
  closedNext: string | null | undefined = undefined
  replies: readonly SavedReply[] = []
  visitors = new Map<string, VisitorInfo>()
  widgets = new Map<string, WidgetInfo>()
  image: { url: string; name: string } | null = null
  /** The newest message of the open chat, for screen readers. The count tells equal ones apart. */
  said = { text: "", count: 0 }
  isSigningOut = false
  #writings = new Map<string, Writing>()
  #lists = new ChatLists()
  #background = new Set<Room>()
  #searchTimer = 0
  #visitorTimer = 0
  #opening: Promise<void> | null = null

  constructor(
    t: Texts<Language>,
    settings: Settings,
    store: Store,
    server: string,
    desk: Desk,
    session: OperatorSession,
    changed: () => void,
    leave: (why: "signed-out" | "ended") => void,
  ) {
    this.t = t
    this.settings = settings
    this.store = store
    this.server = server
    this.desk = desk
    this.session = session
    this.changed = changed
    this.leave = leave
    this.isCardOpen = matchMedia("(min-width: 1201px)").matches && this.store.get("card") !== "closed"
  }

  // ---- settings

  /** Shows the console as the settings say. They are also kept in the browser, for the time before the sign-in. */
  async use(stored: Record<string, unknown>): Promise<void> {
    const settings = settingsOf(stored)
    const isSpoken = settings.language !== this.settings.language
    this.settings = settings
    this.store.set("settings", JSON.stringify(settings))
    showTheme(settings)
    this.changed()
    if (!isSpoken) return
    const t = await consoleTexts(languagesFor(settings, navigator.languages))
    await this.pages?.speak(t.lang)
    // Another choice may have come meanwhile.
    if (this.settings !== settings) return
    this.t = t
    document.documentElement.lang = t.lang
    this.changed()
  }

  // ---- people and words

  nameOf(user: User): string {
    return nameOf(user) || (isAnonymous(user) ? this.t("visitor", { number: user.id % 10_000 }) : this.t("customerId", { number: user.id }))
  }

  personName(user: User): string {
    return user.role === "operator" ? this.operatorName(user) : this.nameOf(user)
  }

  operatorName(user: User | null | undefined): string {
    return nameOf(user) || this.t("somebody")
  }

  /** The chats of the tabs, as they are now. */
  get lists(): ChatLists {
    this.#lists.update(this.desk.chats, this.desk.me?.user.id ?? 0, this.source)
    return this.#lists
  }

  reason(error: unknown): string {
    const { code, detail } = error as Refusal
    const key = ERRORS[code]
    return key ? this.t(key) : detail || String(error)
  }

  // ---- where the user is

  show(section: Section): void {
    this.notice = ""
    this.#go(section)
    this.changed()
  }

  #go(section: Section): void {
    this.section = section
    if (section !== "chats") void this.openPages()
    const hash = section !== "chats" ? `#${section}` : this.selected ? `#chat/${this.selected}` : ""
    if (location.hash !== hash) history.pushState(null, "", hash || location.pathname)
  }

  /** Loads what shows everything but the chats, dialogs too. */
  openPages(): Promise<void> {
    this.#opening ??= this.#loadPages()
    return this.#opening
  }

  async #loadPages(): Promise<void> {
    this.pagesFailed = false
    try {
      this.pages = await (await import("./admin/pages.tsx")).openPages(this)
    } catch {
      this.#opening = null
      this.pagesFailed = true
      if (this.dialog && !isMenu(this.dialog)) {
        this.dialog = null
        this.notice = this.t("pageFailed")
      }
    }
    this.changed()
  }

  showTab(tab: Tab): void {
    this.tab = tab
    this.found = null
    this.query = ""
    if (tab === "closed") {
      // Chats that were closed long ago are forgotten and read again.
      this.closedNext = undefined
      void this.moreClosed()
    }
    this.changed()
  }

  select(uuid: string): void {
    if (uuid === this.selected && this.room) return this.show("chats")
    this.#release(this.room)
    this.selected = uuid
    this.race = ""
    this.notice = ""
    this.dialog = null
    this.room = null
    if (!matchMedia("(min-width: 1201px)").matches) this.isCardOpen = false
    if (uuid) {
      this.cursor = uuid
      this.room = this.#open(uuid)
      void this.readVisitor(uuid)
    }
    this.#go("chats")
    this.changed()
  }

  /** Follows the address, as after a reload or the browser's back button. */
  follow(): void {
    const section = SECTIONS.find(each => location.hash === `#${each}`)
    if (section && this.mayShow(section)) return this.show(section)
    const uuid = /^#chat\/([0-9a-f-]{36})$/.exec(location.hash)?.[1] ?? ""
    if (uuid !== this.selected || this.section !== "chats") this.select(uuid)
  }

  /** Sends what was written before a reload, in whichever chat. */
  sendUnsent(): void {
    for (const uuid of this.desk.unsent) if (uuid !== this.selected) this.#release(this.#open(uuid))
  }

  #open(uuid: string): Room {
    const known = [...this.#background].find(room => room.uuid === uuid)
    if (known) {
      this.#background.delete(known)
      return known
    }
    const room = this.desk.room(uuid)
    room.on("message", message => this.#heard(room, message))
    room.on("change", () => {
      if (this.#background.has(room) && !isSending(room)) this.#stop(room)
      else if (room === this.room) this.changed()
    })
    return room
  }

  #heard(room: Room, message: Message): void {
    const { type, user, text, attachments } = message
    if (room !== this.room || type !== "standard" || user?.role !== "user") return
    const words = clean(text) || attachments.map(file => clean(file.filename)).join(", ")
    this.said = { text: `${this.nameOf(user)}: ${words}`, count: this.said.count + 1 }
    // Visitors often write from another page than before.
    this.#visitorTimer ||= setTimeout(() => {
      this.#visitorTimer = 0
      if (this.room) void this.#refreshVisitor(this.room.uuid)
    }, VISITOR_AFTER)
  }

  #release(room: Room | null): void {
    if (!room) return
    room.setTyping("")
    if (isSending(room)) this.#background.add(room)
    else this.#stop(room)
  }

  #stop(room: Room): void {
    this.#background.delete(room)
    room.stop()
  }

  toggleCard(open = !this.isCardOpen, isChoice = matchMedia("(min-width: 1201px)").matches): void {
    this.isCardOpen = open
    if (isChoice) this.store.set("card", open ? "open" : "closed")
    this.changed()
  }

  openDialog(dialog: Dialog): void {
    this.dialog = dialog
    if (dialog && !isMenu(dialog)) void this.openPages()
    this.changed()
  }

  /** Opens the dialog in which a message is edited or removed. */
  change(message: Message): void {
    this.message = message
    this.openDialog("message")
  }

  /** Whether the operator may remove the message. Authors may also edit theirs; the server says for how long. */
  mayChange({ user }: Message): boolean {
    return !!user && (this.mayBlock || this.isMine(user))
  }

  /** Supervisors and administrators may block visitors and remove messages of others. */
  get mayBlock(): boolean {
    return !!this.desk.me && this.desk.me.rights !== "operator"
  }

  mayShow(section: Section): boolean {
    return section === "blocks" ? this.mayBlock : this.desk.me?.rights === "admin" || !isAdminSection(section)
  }

  /** What can be done with the open chat. */
  get can(): { canAccept: boolean; canGive: boolean; isOthers: boolean } {
    const { room } = this
    const operator = room?.chat?.operator_user
    const isActive = !!room?.status && room.status !== "closed"
    const isOthers = isActive && !!operator && !this.isMine(operator)
    return { canAccept: isActive && room.status === "new" && !isOthers, canGive: isActive && !isOthers, isOthers }
  }

  /** Goes to the field for replies or notes. */
  write(mode: Mode): void {
    if (!this.room) return
    this.writing(this.room.uuid).mode = mode
    this.written(this.room.uuid)
    focusSoon("composer")
  }

  /** Goes to a list, from wherever. */
  goTo(tab: Tab): void {
    // On phones the chat covers the list.
    if (this.room && matchMedia("(max-width: 640px)").matches) this.select("")
    this.show("chats")
    this.showTab(tab)
    focusSoon("rows")
  }

  /** The newest message or note of the operator in the open chat, if one can be changed. */
  get lastOwn(): Message | undefined {
    return this.room?.messages.findLast(
      message => message.user && this.isMine(message.user) && !message.redacted && (message.type === "standard" || isNote(message)),
    )
  }

  isMine(user: User): boolean {
    return user.role === "operator" && user.id === this.desk.me?.user.id
  }

  // ---- drafts

  writing(uuid: string): Writing {
    const known = this.#writings.get(uuid)
    if (known) return known
    const saved = parse(this.store.get(this.#draftKey(uuid)))
    const draft = (text: unknown): Draft => ({ text: String(text ?? ""), files: [], notice: "" })
    const writing: Writing = {
      mode: saved["mode"] === "note" ? "note" : "reply",
      reply: draft(saved["reply"]),
      note: draft(saved["note"]),
    }
    this.#writings.set(uuid, writing)
    return writing
  }

  written(uuid: string): void {
    const { mode, reply, note } = this.writing(uuid)
    const key = this.#draftKey(uuid)
    if (reply.text || note.text) this.store.set(key, JSON.stringify({ mode, reply: reply.text, note: note.text }))
    else this.store.remove(key)
    this.changed()
  }

  #draftKey(uuid: string): string {
    return `draft.${this.desk.me?.user.id ?? 0}.${uuid}`
  }

  /** Sends the reply or the note that is written. */
  send(uuid: string): void {
    const { mode, [mode]: draft } = this.writing(uuid)
    const text = draft.text.trim()
    if (!this.room || this.room.uuid !== uuid || (!text && !draft.files.length)) return
    this.room.send(text, { files: draft.files, note: mode === "note" })
    Object.assign(draft, { text: "", files: [], notice: "" })
    this.written(uuid)
  }

  /** Appends a saved reply to the reply, with the names filled in. */
  useReply(reply: SavedReply): void {
    const { room } = this
    if (!room) return
    const visitor = room.chat?.owner_user
    const names = { name: visitor ? clean(visitor.firstname) : "", operator: nameOf(this.desk.me?.user) }
    const filled = reply.text.replace(/\{(name|operator)\}/g, (_, key: "name" | "operator") => names[key])
    const writing = this.writing(room.uuid)
    const before = writing.reply.text
    writing.mode = "reply"
    writing.reply.text = before && !/\s$/.test(before) ? `${before} ${filled}` : before + filled
    room.setTyping(writing.reply.text)
    this.written(room.uuid)
  }

  /** What the chat's source accepts, as far as it is known. */
  limits(chat: ChatRecord | null): Limits | null {
    const widget = chat && this.widgets.get(chat.widget.source)
    return widget ? { text: widget.text_length, ...widget.files } : null
  }

  // ---- what is done with a chat

  async accept(uuid = this.selected): Promise<void> {
    this.race = ""
    try {
      await this.desk.accept(uuid)
      if (this.tab === "new") this.tab = "mine"
    } catch (error) {
      await this.#lost(uuid, error)
    }
    this.changed()
  }

  /** Says who was faster, and when. */
  async #lost(uuid: string, error: unknown): Promise<void> {
    const { code, detail } = error as Refusal
    if (code !== "not_owner") return this.#failed(error)
    const since = / since (\S+)$/.exec(detail)?.[1]
    try {
      const name = this.operatorName((await this.desk.chat(uuid)).operator_user)
      const time = since && new Intl.DateTimeFormat(this.t.lang, { timeStyle: "medium" }).format(new Date(since))
      this.race = time ? this.t("acceptedBefore", { name, time }) : this.t("acceptedBeforeUndated", { name })
    } catch (unanswered) {
      this.#failed(unanswered)
    }
  }

  async act(action: () => Promise<unknown>): Promise<boolean> {
    this.dialog = null
    this.race = ""
    this.notice = ""
    this.changed()
    try {
      await action()
      return true
    } catch (error) {
      this.#failed(error)
      return false
    } finally {
      this.changed()
    }
  }

  #failed(error: unknown): void {
    this.notice = this.t("doesNotWork", { reason: this.reason(error) })
    this.changed()
  }

  // ---- what is read besides the feed

  async readVisitor(uuid: string): Promise<void> {
    await this.#refreshVisitor(uuid)
    const visitor = this.visitors.get(uuid)
    if (!visitor) return
    try {
      await this.desk.list({ owner: visitor.user.id, limit: 20 })
    } catch {
      // The card shows the chats that are known already.
    }
    this.changed()
  }

  async #refreshVisitor(uuid: string): Promise<void> {
    try {
      const visitor = await this.desk.visitor(uuid)
      this.visitors.delete(uuid)
      this.visitors.set(uuid, visitor)
      // A map has the order in which its keys were set.
      const [oldest] = this.visitors.keys()
      if (this.visitors.size > VISITORS && oldest) this.visitors.delete(oldest)
    } catch {
      // The card shows what the chat itself says.
    }
    this.changed()
  }

  async readReplies(): Promise<void> {
    try {
      this.replies = await this.desk.savedReplies()
    } catch {
      // They are read again when the console connects again.
    }
    this.changed()
  }

  async readWidgets(): Promise<void> {
    for (const source of this.desk.me?.sources ?? []) {
      try {
        this.widgets.set(source, await this.desk.widget(source))
      } catch {
        // Then this source has no target for answers.
      }
    }
    this.changed()
  }

  async moreClosed(): Promise<void> {
    try {
      const cursor = this.closedNext
      const page = await this.desk.list({ status: "closed", limit: 50, ...(cursor && { cursor }) })
      this.closedNext = page.next
    } catch (error) {
      this.#failed(error)
    }
    this.changed()
  }

  search(query: string): void {
    this.query = query
    clearTimeout(this.#searchTimer)
    if (!query.trim()) this.found = null
    else this.#searchTimer = setTimeout(() => void this.#search(query.trim()), 250)
    this.changed()
  }

  async #search(query: string): Promise<void> {
    this.isSearching = true
    this.changed()
    try {
      const [messages, users] = await Promise.all([this.desk.searchMessages(query), this.desk.searchPeople(query)])
      const visitors = users.filter(user => user.role === "user")
      const people = await Promise.all(
        visitors.map(async user => ({ user, chat: (await this.desk.list({ owner: user.id, limit: 1 })).chats[0]?.chat.uuid ?? "" })),
      )
      if (this.query.trim() === query) this.found = { query, messages, people: people.filter(({ chat }) => chat) }
    } catch (error) {
      this.#failed(error)
    }
    this.isSearching = false
    this.changed()
  }

  async signOut(): Promise<void> {
    // The server closes the feed before it answers.
    this.isSigningOut = true
    try {
      await this.session.signOut()
    } catch (error) {
      this.isSigningOut = false
      if ((error as Refusal).code !== "not_authenticated") return this.#failed(error)
    }
    this.leave("signed-out")
  }
}

const SECTIONS: readonly Section[] = ["sources", "replies", "settings", "operators", "tags", "blocks", "actors", "metrics"]

/** Whether a page belongs to the administration. */
export function isAdminSection(section: Section): section is AdminSection {
  return section !== "chats" && section !== "replies" && section !== "sources" && section !== "settings"
}

export function isMenu(dialog: Dialog): dialog is Menu {
  return dialog === "me" || dialog === "more"
}

export function isAnonymous(user: User): boolean {
  return user.id >= FIRST_ANONYMOUS_ID
}

const ERRORS: Record<string, keyof Language> = {
  unreachable: "errorUnreachable",
  over_capacity: "errorCapacity",
  not_owner: "errorNotOwner",
  chat_closed: "errorClosed",
  rate_limited: "errorRate",
  not_allowed: "errorNotAllowed",
}

function isSending(room: Room): boolean {
  return room.pending.some(message => !message.failed)
}
