import type { Message, PendingMessage, User } from "../sdk/types.ts"
import { daysBetween } from "./formats.ts"

/** What a transcript consists of, from top to bottom. */
export type Row =
  | { kind: "day"; key: string; date: Date }
  | { kind: "system"; key: string; message: Message }
  | { kind: "joined"; key: string; user: User }
  | { kind: "group"; key: string; user: User; messages: Message[] }
  | { kind: "pending"; key: string; message: PendingMessage }

const TOGETHER_MS = 5 * 60_000

/** Groups messages by author and time, and puts a line between days and before an operator's first message. */
export function rowsOf(messages: readonly Message[], pending: readonly PendingMessage[], isWhole: boolean): Row[] {
  const rows: Row[] = []
  const seen = new Set<number>()
  let last: Date | null = null
  for (const message of messages) {
    const date = new Date(message.send_time)
    if (!last || daysBetween(last, date)) rows.push({ kind: "day", key: `d${message.id}`, date })
    const { user } = message
    if (message.type === "system" || !user) {
      rows.push({ kind: "system", key: `m${message.id}`, message })
      last = date
      continue
    }
    if (user.role === "operator" && !seen.has(user.id)) {
      // In a part of a transcript the operator may have joined before.
      if (isWhole) rows.push({ kind: "joined", key: `j${message.id}`, user })
      seen.add(user.id)
    }
    const before = rows.at(-1)
    const joins =
      before?.kind === "group" &&
      before.user.id === user.id &&
      before.user.role === user.role &&
      last !== null &&
      date.getTime() - last.getTime() < TOGETHER_MS
    if (joins) before.messages.push(message)
    else rows.push({ kind: "group", key: `m${message.id}`, user, messages: [message] })
    last = date
  }
  for (const message of pending) rows.push({ kind: "pending", key: message.id, message })
  return rows
}
