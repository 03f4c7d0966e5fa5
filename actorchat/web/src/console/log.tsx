import { useContext, useEffect, useMemo, useState } from "preact/hooks"
import type { ChatSummary, Room } from "../sdk/desk-types.ts"
import type { Message, User } from "../sdk/types.ts"
import { clean } from "../ui/clean.ts"
import { Group, Log, reasonOf, RowView, stateOf, type LogView, type RowProperties } from "../ui/log.tsx"
import { ConsoleContext } from "./context.ts"
import { Icon } from "./icons.tsx"
import type { Language } from "./locales/en.ts"
import { memo } from "./memo.tsx"
import { Face, shortTime } from "./people.tsx"
import { isNote, systemKey } from "./system-texts.ts"

/** What the line says if it is known who has done it: another operator, or the one who reads it. */
const ACTED: Partial<Record<keyof Language, readonly ["passedBy" | "returnedBy", "passedByYou" | "returnedByYou"]>> = {
  systemTransferred: ["passedBy", "passedByYou"],
  systemQueue: ["returnedBy", "returnedByYou"],
}

const REASONS: Record<string, keyof Language> = { not_owner: "errorNotOwner", over_capacity: "errorCapacity" }

/** At the end of the log, more messages than this are forgotten but for the newest ones; scrolling up reads them again. */
const MOST = 300
const KEPT = 100

interface KeptProperties extends RowProperties {
  receipts: Room["receipts"]
}

/** Messages that have not changed are not drawn again: a long chat would take longer with every new one. */
const KeptRow = memo(RowView, isSameRow)

function isSameRow(a: KeptProperties, b: KeptProperties): boolean {
  if (a.view !== b.view) return false
  const [before, row] = [a.row, b.row]
  if (before.kind === "group" && row.kind === "group") {
    const [old, last] = [before.messages.at(-1) as Message, row.messages.at(-1) as Message]
    return (
      before.messages.length === row.messages.length &&
      row.messages.every((message, at) => message === before.messages[at]) &&
      (row.user.role !== b.view.side || stateOf(a, old) === stateOf(b, last))
    )
  }
  return (before.kind === "system" || before.kind === "pending") && before.kind === row.kind && before.message === row.message
}

/** The messages and notes of a chat, who closed it, and what the visitor is writing just now. */
export function RoomLog({ room, typing, closed }: { room: Room; typing: string; closed: ChatSummary["closed"] }) {
  const ui = useContext(ConsoleContext)
  const { t } = ui
  const [isBottom, setBottom] = useState(true)
  useEffect(() => {
    const read = (): void => {
      if (isBottom && document.hasFocus()) room.markRead()
    }
    read()
    addEventListener("focus", read)
    return () => removeEventListener("focus", read)
  })
  useEffect(() => {
    // A chat of hours must not take more and more memory.
    if (isBottom && room.messages.length > MOST) room.forget(KEPT)
  })
  const nameOf = (user: User): string => ui.personName(user)
  const view = useMemo(
    (): LogView => ({
      chat: room,
      side: "operator",
      own: "op",
      nameOf,
      face: user => {
        const shown = user ?? (ui.desk.me?.user as User)
        return <Face user={shown} name={nameOf(shown)} size="s" />
      },
      system: message => (isNote(message) ? <Note message={message} view={view} /> : <SystemLine message={message} />),
      joined: user => user.id !== ui.desk.me?.user.id && <p class="ev">{t("joined", { name: nameOf(user) })}</p>,
      reason: code => (REASONS[code] ? t(REASONS[code]) : reasonOf(t, code)),
      around: (message, bubbles) =>
        ui.mayChange(message) ? (
          <div class="own">
            <div class="st">{bubbles}</div>
            <button
              type="button"
              class="ib"
              aria-label={t(message.user && ui.isMine(message.user) ? "changeMessage" : "removeMessage")}
              onClick={() => ui.change(message)}
            >
              <Icon name="more" size={18} />
            </button>
          </div>
        ) : (
          bubbles
        ),
      Row: properties => <KeptRow {...properties} receipts={room.receipts} />,
    }),
    [room],
  )
  if (!room.loaded) return <div class="log" role="status" aria-label={t("loading")} />
  const owner = room.chat?.owner_user
  return (
    <Log view={view} onBottom={setBottom}>
      {closed && room.status === "closed" && <ClosedLine closed={closed} />}
      {typing && owner && (
        <div class="g live">
          <Face user={owner} name={ui.nameOf(owner)} size="s" />
          <div class="st">
            <p class="bub" dir="auto">
              {clean(typing)}
            </p>
          </div>
          <div class="meta">{t("notSentYet")}</div>
        </div>
      )}
    </Log>
  )
}

/** The server tells operators in another way than visitors that a chat was closed. */
function ClosedLine({ closed: { user, time } }: { closed: NonNullable<ChatSummary["closed"]> }) {
  const ui = useContext(ConsoleContext)
  const { t } = ui
  const when = { time: shortTime(t, time, Date.now()) }
  return (
    <p class="ev">
      {!user ? t("closedByServer", when) : ui.isMine(user) ? t("closedByYou", when) : t("closedBy", { name: ui.personName(user), ...when })}
    </p>
  )
}

function SystemLine({ message: { text, user } }: { message: Message }) {
  const ui = useContext(ConsoleContext)
  const { t } = ui
  const key = systemKey(text)
  const named = user && key && ACTED[key]
  if (!named) return <p class="ev">{key ? t(key) : clean(text)}</p>
  const [byOthers, byYou] = named
  return <p class="ev">{ui.isMine(user) ? t(byYou) : t(byOthers, { name: ui.operatorName(user) })}</p>
}

function Note({ message, view }: { message: Message; view: LogView }) {
  const { t } = useContext(ConsoleContext)
  const user = message.user as User
  const label = (
    <div class="lb">
      <Icon name="lock" size={14} />
      <span>{t("noteFrom", { name: clean(user.firstname) || view.nameOf(user) })}</span>
    </div>
  )
  return <Group user={user} messages={[message]} view={view} note={label} />
}
