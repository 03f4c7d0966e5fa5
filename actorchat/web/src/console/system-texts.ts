import type { Message } from "../sdk/types.ts"
import type { Language } from "./locales/en.ts"

const TEXTS: Record<string, keyof Language> = {
  "The chat was closed.": "systemClosed",
  "The chat was reopened.": "systemReopened",
  "The chat was passed to another operator.": "systemTransferred",
  "The chat was returned to the queue.": "systemQueue",
  "The chat was returned to the queue: nobody answered in time.": "systemUnanswered",
  "The chat was returned to the queue: its operator went offline.": "systemOffline",
  "The chat was closed: nobody wrote for a while.": "systemIdle",
}

/** The server's own texts are English; this is the text's name in other languages. */
export function systemKey(text: string): keyof Language | undefined {
  return TEXTS[text]
}

/** Whether an operator has written it for other operators. */
export function isNote(message: Message): boolean {
  return message.type === "system" && message.user?.role === "operator" && !systemKey(message.text)
}
