import { createRef, type ComponentChildren, type ComponentType, type TargetedEvent } from "preact"
import type { BrowserChat, Message, PendingMessage, User } from "../sdk/types.ts"
import { StoredFile, UploadedFile } from "./attachment.tsx"
import { clock, day, daysBetween } from "./formats.ts"
import type { Texts } from "./i18n.ts"
import { Icon } from "./icons.tsx"
import type { Language } from "./locales/en.ts"
import { rowsOf, type Row } from "./rows.ts"
import { Text } from "./text.tsx"
import { View } from "./view.ts"

const NEAR = 80

/** What is shown of a visitor's chat or of an operator's room. */
export type Logged = Pick<
  BrowserChat,
  "messages" | "pending" | "hasOlder" | "unread" | "receipts" | "older" | "retry" | "discard"
>

/** What differs between the pages. */
export interface LogView {
  chat: Logged
  /** The side that uses the page: its messages have receipts. */
  side: User["role"]
  /** The class of that side's groups. */
  own: string
  nameOf: (user: User) => string
  /** The picture beside a group; the argument is null for a message that is not stored yet. */
  face: (user: User | null) => ComponentChildren
  system: (message: Message) => ComponentChildren
  joined: (user: User) => ComponentChildren
  /** Why a message was refused. */
  reason: (code: string) => string
  /** Puts more beside the bubbles of a message. */
  around?: (message: Message, bubbles: ComponentChildren) => ComponentChildren
  /** Draws a line in another way than `RowView`. */
  Row?: ComponentType<RowProperties>
}

export interface RowProperties {
  row: Row
  view: LogView
}

interface Properties {
  view: LogView
  onBottom: (isThere: boolean) => void
  /** Shown below the messages. */
  children?: ComponentChildren
}

/** The transcript. It stays at its end while new messages arrive, and keeps its place when it was scrolled up. */
export class Log extends View<Properties, { isAway?: boolean; isReading?: boolean }> {
  #scroller = createRef<HTMLDivElement>()
  #pending = 0

  #readOlder = (): void => {
    const { chat } = this.props.view
    if (this.state.isReading || !chat.hasOlder) return
    this.setState({ isReading: true })
    chat
      .older()
      .catch(() => {})
      .finally(() => this.setState({ isReading: false }))
  }

  #scrolled = ({ currentTarget: { scrollTop, scrollHeight, clientHeight } }: TargetedEvent<HTMLElement>): void => {
    // The log grows upwards: its end is at 0 and its start at a negative position.
    const isAway = scrollTop < -NEAR
    if (isAway !== !!this.state.isAway) this.setState({ isAway })
    this.props.onBottom(!isAway)
    if (scrollHeight + scrollTop - clientHeight < 200) this.#readOlder()
  }

  #toBottom = (): void => this.#scroller.current?.scrollTo({ top: 0 })

  /** What was just written is shown. */
  override componentDidUpdate(): void {
    const { length } = this.props.view.chat.pending
    if (length !== this.#pending) this.#toBottom()
    this.#pending = length
  }

  render() {
    const { t } = this.context
    const { view, children } = this.props
    const { messages, pending, hasOlder, unread } = view.chat
    const { isAway, isReading = false } = this.state
    const Line = view.Row ?? RowView
    return (
      <div class="mid">
        <div
          class="log"
          role="log"
          aria-live="off"
          aria-label={t("messages")}
          tabIndex={0}
          ref={this.#scroller}
          onScroll={this.#scrolled}
        >
          <div class="in">
            {hasOlder && (
              <button type="button" class="older" disabled={isReading} onClick={this.#readOlder}>
                {t("older")}
              </button>
            )}
            {rowsOf(messages, pending, !hasOlder).map(row => (
              <Line key={row.key} row={row} view={view} />
            ))}
            {children}
          </div>
        </div>
        {isAway && unread > 0 && (
          <button type="button" class="pill" onClick={this.#toBottom}>
            {t("newMessages", { count: unread })}
          </button>
        )}
      </div>
    )
  }
}

export class RowView extends View<RowProperties> {
  render() {
    const { row, view } = this.props
    const { t } = this.context
    switch (row.kind) {
      case "day": {
        const now = new Date()
        const ago = daysBetween(row.date, now)
        return <p class="day">{ago === 0 ? t("today") : ago === 1 ? t("yesterday") : day(t.lang, row.date, now)}</p>
      }
      case "system":
        return view.system(row.message)
      case "joined":
        return view.joined(row.user)
      case "group":
        return <Group user={row.user} messages={row.messages} view={view} />
      case "pending":
        return <Pending message={row.message} view={view} />
    }
  }
}

interface GroupProperties {
  user: User
  messages: readonly Message[]
  view: LogView
  /** Above the messages of a note, which has no receipts. */
  note?: ComponentChildren
}

/** Messages that one person has written one after the other. */
export class Group extends View<GroupProperties> {
  render() {
    const { user, messages, view, note } = this.props
    const { t } = this.context
    const isOwn = user.role === view.side
    const last = messages.at(-1) as Message
    const state = stateOf(view.chat, last)
    return (
      <div class={`g${isOwn ? ` ${view.own}` : ""}${note ? " note" : ""}`}>
        {view.face(user)}
        <div class="st">
          {note ?? <span class="sr">{view.nameOf(user)}</span>}
          {messages.map(message => (
            <Bubbles key={message.id} message={message} view={view} />
          ))}
        </div>
        <div class="meta">
          <time dateTime={last.send_time} dir="auto">
            {clock(t.lang, new Date(last.send_time))}
          </time>
          {isOwn && !note && (
            <span class={state} role="img" aria-label={t(state)}>
              <Icon name={state === "stored" ? "tick" : "ticks"} size={18} />
            </span>
          )}
        </div>
      </div>
    )
  }
}

/** What the other side has done with a message so far. */
export function stateOf({ receipts }: Pick<Logged, "receipts">, { message_index: index }: Message): "stored" | "delivered" | "read" {
  return index <= receipts.read ? "read" : index <= receipts.delivered ? "delivered" : "stored"
}

class Bubbles extends View<{ message: Message; view: LogView }> {
  render() {
    const { message, view } = this.props
    const { t } = this.context
    if (message.redacted) return <div class="bub gone">{t("removed")}</div>
    const bubbles = (
      <>
        {message.text && (
          <div class="bub">
            <Text text={message.text} />
            {message.edited_at && <small>{t("edited")}</small>}
          </div>
        )}
        {message.attachments.map(file => (
          <StoredFile key={file.uuid} file={file} message={message} />
        ))}
      </>
    )
    return view.around?.(message, bubbles) ?? bubbles
  }
}

const REASONS: Record<string, keyof Language> = {
  too_long: "failedTooLong",
  attachment_rejected: "failedFile",
  attachment_unknown: "failedFile",
  too_many_attachments: "failedFiles",
  too_large: "failedFileSize",
  empty: "failedFileEmpty",
  upload_interrupted: "failedInterrupted",
  chat_closed: "failedClosed",
  blocked: "failedBlocked",
}

/** Why a message was refused, in words. */
export function reasonOf(t: Texts, code: string): string {
  return t(REASONS[code] ?? "failedGeneric")
}

class Pending extends View<{ message: PendingMessage; view: LogView }> {
  render() {
    const { message, view } = this.props
    const { t } = this.context
    const { id, text, files, failed, note } = message
    const { chat } = view
    const canRetry = failed?.code !== "upload_interrupted" || !!text
    return (
      <div class={`g ${view.own}${note ? " note" : ""}${failed ? " fail" : ""}`}>
        {view.face(null)}
        <div class="st">
          {text && (
            <div class="bub">
              <Text text={text} />
            </div>
          )}
          {files.map((file, index) => (
            <UploadedFile key={index} file={file} failed={!!failed} />
          ))}
        </div>
        <div class="meta">
          {failed ? (
            <>
              <Icon name="alert" size={14} />
              <span>{t("notSent", { reason: view.reason(failed.code) })}</span>
            </>
          ) : (
            <span class="clock" role="img" aria-label={t("sending")}>
              <Icon name="clock" size={14} />
            </span>
          )}
          {(failed || files.some(file => !file.uuid)) && (
            <span class="do">
              {failed && canRetry && (
                <button type="button" onClick={() => chat.retry(id)}>
                  {t("tryAgain")}
                </button>
              )}{" "}
              <button type="button" onClick={() => chat.discard(id)}>
                {t("discard")}
              </button>
            </span>
          )}
        </div>
      </div>
    )
  }
}
