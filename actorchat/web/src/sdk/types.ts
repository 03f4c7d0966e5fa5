/** A visitor or an operator. */
export interface User {
  id: number
  role: "user" | "operator"
  avatar: string
  lastname: string
  firstname: string
  patronymic: string
}

export type ChatStatus = "new" | "open" | "closed"

/** A chat as the server describes it. */
export interface ChatRecord {
  uuid: string
  widget: { source: string }
  status: ChatStatus
  owner_user: User
  operator_user: User | null
}

/** A file in a message. `url` and `url_preview` are signed for this reader and expire after some minutes. */
export interface Attachment {
  uuid: string
  type: "image" | "video" | "audio" | "file"
  url: string
  /** Empty if there is no preview. */
  url_preview: string
  filename: string
  extension: string
  /** Bytes. */
  size: number
}

/** A stored message. */
export interface Message {
  id: number
  type: "standard" | "system"
  type_role: "user" | "operator"
  status: "new" | "delivered" | "read"
  text: string
  send_time: string
  /** The place in the chat; there may be holes. */
  message_index: number
  chat: ChatRecord
  user: User | null
  attachments: Attachment[]
  /** When the text was last edited. */
  edited_at?: string
  /** Whether the text and the files were removed. */
  redacted?: boolean
}

/** Why something was refused. Decide by `code`; `detail` is English text for developers. */
export interface Refusal {
  code: string
  detail: string
}

/** A file of a message that is not stored yet. */
export interface PendingFile {
  name: string
  /** Bytes. */
  size: number
  /** The uploaded part, 0 to 1. */
  progress: number
  /** The file itself; absent after a reload. */
  file?: File
  /** Set once the file is uploaded. */
  uuid?: string
}

/** A message that is not stored yet. It is kept in the browser's storage, and sent again after a reload. */
export interface PendingMessage {
  /** The `client_id`: the server stores a message with it only once. */
  id: string
  text: string
  files: PendingFile[]
  /** When it was sent, in epoch milliseconds. */
  sentAt: number
  /** Set if only operators see it. */
  note?: true
  /** Set if it was refused or can't be sent: `retry` or `discard` it. */
  failed?: Refusal
}

/** What `send` returns. */
export interface Delivery {
  id: string
  /** Resolves with the stored message; rejects with a `Refusal` if it is discarded. A failed one can still be retried. */
  stored: Promise<Message>
}

/**
 * - `idle`: nothing to connect for: this visitor has no chat yet.
 * - `connecting`: the first attempt, or the attempt after a wait.
 * - `live`: messages arrive as they are stored.
 * - `waiting`: the connection was lost; the next attempt is at `retryAt`.
 * - `offline`: the browser has no network.
 * - `ended`: no more attempts; `reason` says why.
 */
export type State = "idle" | "connecting" | "live" | "waiting" | "offline" | "ended"

/**
 * Why a chat is not live. `signed_out`, `not_authenticated`, `not_allowed`, `not_found` and `stopped` end it;
 * `unreachable` means that several attempts in a row have failed.
 */
export type Reason =
  | ""
  | "lost"
  | "unreachable"
  | "rate_limited"
  | "signed_out"
  | "not_authenticated"
  | "not_allowed"
  | "not_found"
  | "stopped"

export interface ChatEvents {
  /** Something that the properties show has changed. At most once in 16 ms. */
  change: () => void
  /** A message that was not known before was stored; own ones of other tabs too. */
  message: (message: Message) => void
  /** A message was refused, or one of its files could not be uploaded. */
  refused: (message: PendingMessage) => void
  /** `state` has changed. */
  state: (state: State) => void
  /** The chat has ended; `reason` is that property. */
  ended: (reason: Reason) => void
}

/** A visitor's chat. Its properties are snapshots: they are replaced, never changed. */
export interface BrowserChat {
  readonly state: State
  readonly reason: Reason
  /** When the next attempt to connect is due, in epoch milliseconds; 0 if none is planned. */
  readonly retryAt: number
  /** When the connection was lost, in epoch milliseconds; 0 while live. */
  readonly lostAt: number
  /** The stored messages that are known, in their order. */
  readonly messages: readonly Message[]
  /** The messages that are not stored yet, in the order in which they were sent. */
  readonly pending: readonly PendingMessage[]
  /** Whether the server has older messages than those in `messages`. */
  readonly hasOlder: boolean
  /** Whether the first page of messages has been read, or there is no chat yet. */
  readonly loaded: boolean
  /** The chat's record; null before the visitor's first message. */
  readonly chat: ChatRecord | null
  readonly status: ChatStatus | null
  /** The visitor; null before the first message. */
  readonly me: User | null
  /** The users in the room now. Empty while not live. */
  readonly people: readonly User[]
  /** The highest indexes of messages that the operators have received and read; -1 for none. */
  readonly receipts: { readonly delivered: number; readonly read: number }
  /** The operators that are writing now. */
  readonly typing: readonly User[]
  /** How many messages of operators the visitor has not read. */
  readonly unread: number
  /** Whether this tab keeps the connection while it is hidden. One tab of a visitor leads. */
  readonly leads: boolean

  on<Name extends keyof ChatEvents>(event: Name, handler: ChatEvents[Name]): () => void
  /** Send a message. A string in `files` is the uuid of a file that was uploaded before. Never throws. */
  send(text: string, options?: { files?: (File | string)[] }): Delivery
  /** Send a failed message again. Files that were lost in a reload are left out. */
  retry(id: string): void
  /** Forget a message that is not stored. It may have been stored if it was on its way. */
  discard(id: string): void
  /** Tell the operators that the visitor has read everything. */
  markRead(): void
  /** Tell the operators what the visitor is writing. Call it with "" when the field is empty. */
  setTyping(text: string): void
  /** Read older messages. Resolves with whether there are more; rejects with a `Refusal`. */
  older(): Promise<boolean>
  /** Get new links to the files of a message, whose links have expired. */
  renewLinks(message: Message): Promise<void>
  /** Say whether the chat is shown. A hidden tab that neither leads nor shows it is not connected. Shown at first. */
  setShown(shown: boolean): void
  /** Try to connect now instead of at `retryAt`. */
  reconnect(): void
  /** End the conversation. Rejects with a `Refusal`. */
  close(): Promise<void>
  /** Continue a closed conversation without a message. Rejects with a `Refusal`. */
  reopen(): Promise<void>
  /** Continue as the user of a token from the site's backend, who gets the chats of the anonymous visitor before. */
  identify(token: string): void
  /** Forget this visitor in all tabs: token, chat and messages that are not stored. An anonymous one is gone for good. */
  signOut(): void
  /** Disconnect and release everything. */
  stop(): void
}

export interface ChatOptions {
  /** The widget source, `lk` by default. */
  source?: string
  /** The server's address. By default the one that this module came from. */
  server?: string
  /** Returns a token of the site's backend. Called at the start and when the token has expired. */
  token?: () => Promise<string>
  /** Whether operators see which pages of the site the visitor views, with language and time zone. True by default. */
  pages?: boolean
  /** Where the visitor's token and the messages that are not stored are kept. `local` by default. */
  storage?: "local" | "memory"
}
