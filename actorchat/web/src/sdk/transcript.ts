import type { Message, User } from "./types.ts"

/** The stored messages that are known, by id, in the order of their indexes. */
export class Transcript {
  #side: User["role"]
  #byId = new Map<number, Message>()
  /** Edits of messages that are not known: a page that is being read may still have the earlier text. */
  #edits = new Map<number, Message>()
  #sorted: readonly Message[] | null = []

  /** `side` is the role of the reader. */
  constructor(side: User["role"]) {
    this.#side = side
  }

  /** A snapshot, which is replaced when something changes. */
  get messages(): readonly Message[] {
    return (this.#sorted ??= [...this.#byId.values()].sort((a, b) => a.message_index - b.message_index))
  }

  /** The highest index, -1 without messages. */
  get last(): number {
    return this.messages.at(-1)?.message_index ?? -1
  }

  /** Takes a message unless a later edit of it is known. Returns whether the message was not known before. */
  put(message: Message): boolean {
    const { id, edited_at = "" } = message
    const known = this.#byId.get(id)
    const latest = known ?? this.#edits.get(id)
    this.#byId.set(id, latest?.edited_at && latest.edited_at > edited_at ? latest : message)
    this.#sorted = null
    return !known
  }

  /** Replaces a message. One that is not known belongs to a page that was not read, and is shown with that. */
  replace(message: Message): void {
    if (this.#byId.has(message.id)) this.put(message)
    else this.#edits.set(message.id, message)
  }

  /** Shows the messages of the chat's former owners as those of `owner`. */
  give(owner: User): void {
    for (const [id, message] of this.#byId) {
      const { user } = message
      if (user?.role !== owner.role || user.id === owner.id) continue
      this.#byId.set(id, { ...message, user: owner })
      this.#sorted = null
    }
  }

  clear(): void {
    this.#byId.clear()
    this.#edits.clear()
    this.#sorted = []
  }

  /** The newest message of the other side up to that index. */
  newestOfOthers(upTo = Infinity): Message | undefined {
    return this.messages.findLast(message => isOfOther(message, this.#side) && message.message_index <= upTo)
  }

  /** How many messages the other side has written after that index. */
  countOfOthers(after: number): number {
    return this.messages.filter(
      message => message.message_index > after && isOfOther(message, this.#side) && !message.redacted,
    ).length
  }
}

/** Whether a person of the other side has written it. */
export function isOfOther({ type, user }: Message, side: User["role"]): boolean {
  return type === "standard" && user !== null && user.role !== side
}
