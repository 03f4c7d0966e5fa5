import type { BrowserChat, ChatEvents, ChatRecord, ChatStatus, Delivery, Message, Reason, State, User } from "./sdk.js"

export type Rights = "operator" | "supervisor" | "admin"

/** The operator that is signed in. */
export interface OperatorProfile {
  user: User
  /** null without an account. */
  login: string | null
  rights: Rights
  sources: string[]
  /** How many chats the operator takes at a time; 0 is unlimited. */
  capacity: number
  away: boolean
  /** What the operator has chosen for their console: any JSON object. */
  settings: Record<string, unknown>
}

/** An operator with presence and counters. */
export interface OperatorState {
  user: User
  is_online: boolean
  new_chats: number
  open_chats: number
  away?: boolean
}

/** What a list shows of a chat. Times are ISO 8601. */
export interface ChatSummary {
  chat: ChatRecord
  /** The newest message, notes included. `role` is null if the server wrote it. */
  last: { text: string; role: "user" | "operator" | null; name: string; type: "standard" | "system"; send_time: string } | null
  /** How many of the visitor's messages no operator has read. */
  unread: number
  /** Since when the visitor waits for an answer. */
  waiting_since: string | null
  activity: string
  created: string
  tags: string[]
  /** The operators that have the chat open now. */
  viewers: User[]
  /** Who closed a closed chat, null for the server, and when. */
  closed: { user: User | null; time: string } | null
}

/** A page of a list of chats. */
export interface ChatPage {
  chats: ChatSummary[]
  /** The cursor of the next page; null on the last one. */
  next: string | null
}

export interface SavedReply {
  id: string
  /** null for a personal one. */
  source: string | null
  title: string
  text: string
  shortcut: string
}

/** The owner of a chat, with the latest pages that they viewed, the newest first. */
export interface VisitorInfo {
  user: User
  /** Empty if unknown, as is `timezone`. */
  language: string
  timezone: string
  pages: { url: string; title: string; referrer: string; time: string }[]
  /** The network address of the latest page view. null if unknown, and for operators who are no supervisors. */
  address: string | null
}

export interface WidgetConfig {
  title: string
  greeting: string
  questions: string[]
  accent: string
  privacy_url: string
  languages: string[]
  answer_seconds: number | null
}

/** A source's widget as visitors see it. */
export interface WidgetInfo {
  source: string
  config: WidgetConfig
  online: boolean
  team: { name: string; avatar: string; online: boolean }[]
  text_length: number
  files: { size: number; number: number; types: string[] }
}

export interface DeskEvents {
  /** Something that the properties show has changed. At most once in 16 ms. */
  change: () => void
  /** A message or a note was stored in any of the chats. Not called for messages of the time before. */
  message: (message: Message) => void
  /** The status or the operator of a chat has changed, or a chat is new: `before` is null then. */
  chat: (chat: ChatRecord, before: ChatRecord | null) => void
  /** `state` has changed. */
  state: (state: State) => void
}

/**
 * One chat, read and answered by an operator. It has what a visitor's chat has, seen from the other side: `receipts` are what the visitor has
 * received and read, `unread` counts the visitor's messages, and `people` has the visitor while they are there.
 */
export interface Room
  extends Pick<
    BrowserChat,
    | "state"
    | "reason"
    | "retryAt"
    | "lostAt"
    | "messages"
    | "pending"
    | "hasOlder"
    | "loaded"
    | "people"
    | "receipts"
    | "unread"
    | "retry"
    | "discard"
    | "older"
    | "renewLinks"
    | "reconnect"
    | "stop"
  > {
  readonly uuid: string
  readonly chat: ChatRecord | null
  readonly status: ChatStatus | null
  /** Whether the chat is open with this operator. The visitor is not told of other readers. */
  readonly isMine: boolean
  on<Name extends keyof ChatEvents>(event: Name, handler: ChatEvents[Name]): () => void
  /** Send a message, or with `note` one that only operators see. As `send` of a visitor's chat otherwise. */
  send(text: string, options?: { files?: (File | string)[]; note?: boolean }): Delivery
  /** Forget all messages but the newest ones, to save memory. `older` reads them again. */
  forget(kept: number): void
  /** Tell the visitor that everything has been read; nothing happens in chats of other operators. */
  markRead(): void
  /** Tell the visitor that the operator is writing. Call it with "" when the field is empty. */
  setTyping(text: string): void
}

/** All chats of an operator's sources. The properties are snapshots: they are replaced, never changed. */
export interface Desk {
  readonly state: State
  readonly reason: Reason
  /** When the next attempt to connect is due, in epoch milliseconds; 0 if none is planned. */
  readonly retryAt: number
  /** When the connection was lost, in epoch milliseconds; 0 while live. */
  readonly lostAt: number
  /** The operator; null until the server has answered for the first time. */
  readonly me: OperatorProfile | null
  /** Whether the chats that are not closed are all known. */
  readonly ready: boolean
  /** Chats that are not closed, those that were closed meanwhile, and those that `list` has read. Not in any order. */
  readonly chats: readonly ChatSummary[]
  readonly operators: readonly OperatorState[]
  /** How many chats have messages that no operator has read. */
  readonly unread: number
  /** What visitors are writing and have not sent, by the chat's uuid. */
  readonly typing: ReadonlyMap<string, string>
  /** Whether this is the one tab of the operator that plays sounds. */
  readonly leads: boolean
  /** The chats in which this browser keeps messages that are not stored yet: open their rooms to send them. */
  readonly unsent: readonly string[]

  on<Name extends keyof DeskEvents>(event: Name, handler: DeskEvents[Name]): () => void
  summary(uuid: string): ChatSummary | undefined
  /** Open a chat. Throws before `me` is known. The visitor sees the operator in it if the chat is theirs. */
  room(uuid: string): Room
  /** The methods that change a chat reject with a `Refusal`, such as `not_owner`. */
  accept(uuid: string): Promise<ChatRecord>
  transfer(uuid: string, operatorId: number): Promise<ChatRecord>
  giveBack(uuid: string): Promise<ChatRecord>
  close(uuid: string): Promise<ChatRecord>
  reopen(uuid: string): Promise<ChatRecord>
  setTags(uuid: string, tags: string[]): Promise<string[]>
  /** Read a page of chats; they are then also in `chats`. */
  list(query: { status?: ChatStatus; owner?: number; tag?: string; cursor?: string; limit?: number }): Promise<ChatPage>
  /** The chat as the server has it now. */
  chat(uuid: string): Promise<ChatRecord>
  visitor(uuid: string): Promise<VisitorInfo>
  searchMessages(query: string): Promise<Message[]>
  searchPeople(query: string): Promise<User[]>
  savedReplies(): Promise<SavedReply[]>
  /** Add a saved reply, or replace the one with the same `id`. */
  saveReply(reply: Omit<SavedReply, "id"> & { id?: string }): Promise<SavedReply>
  deleteReply(id: string): Promise<void>
  widget(source: string): Promise<WidgetInfo>
  setWidget(source: string, config: WidgetConfig): Promise<WidgetInfo>
  setAway(away: boolean): Promise<void>
  /** Try to connect now instead of at `retryAt`. */
  reconnect(): void
  /** Disconnect and release everything, the rooms too. */
  stop(): void
}

export interface DeskOptions {
  /** Returns an operator's token. Called at the start, and when a token was refused: `refused` is that one. */
  token: (refused: string) => Promise<string>
  /** The sources, by default all of the operator's. */
  sources?: string[]
  /** The server's address. By default the one that this module came from. */
  server?: string
  /** Where messages that are not stored are kept. `local` by default. */
  storage?: "local" | "memory"
}

/** An operator's sign-in with an account. The token is only in memory; a cookie that scripts can't read renews it. */
export interface OperatorSession {
  /**
   * Sign in, and replace the password if a new one is given. Rejects with a `Refusal`: `new_password_needed` for a
   * one-time password. `retryAfter` is in milliseconds.
   */
  signIn(login: string, password: string, newPassword?: string): Promise<void>
  /** Sign in with a one-time code. */
  signInOnce(code: string): Promise<void>
  /** Return a valid token, renewed if need be. Rejects with `not_authenticated` if nobody is signed in. */
  token(refused?: string): Promise<string>
  /** End all sign-ins of the operator, on all devices. */
  signOut(): Promise<void>
}

/** Opens an operator's desk: the chats of all their sources, live. */
export declare function openDesk(options: DeskOptions): Desk

/** Returns the sign-in of an operator's account. For pages of the server's own origin, because of its cookie. */
export declare function openOperatorSession(server?: string): OperatorSession
