import type { ChatSummary } from "../sdk/desk-types.ts"

export type Tab = "new" | "mine" | "all" | "closed"

/** A line of a list. */
export type Item =
  | { kind: "section"; key: "yourTurn" | "theirTurn"; count: number }
  | { kind: "chat"; key: string; summary: ChatSummary }

type Order = (a: ChatSummary, b: ChatSummary) => number

// The server writes all times in one format and in UTC: as text they have the order of time.
const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
const byActivity: Order = (a, b) => compare(b.activity, a.activity) || compare(a.chat.uuid, b.chat.uuid)
const byWait: Order = (a, b) =>
  compare(a.waiting_since ?? a.activity, b.waiting_since ?? b.activity) || compare(a.chat.uuid, b.chat.uuid)

export function isNew({ chat }: ChatSummary): boolean {
  return chat.status === "new" && !chat.operator_user
}

export function isOf({ chat }: ChatSummary, operator: number): boolean {
  return chat.status !== "closed" && chat.operator_user?.id === operator
}

/** Some of the chats in an order that changes keep. */
class Sorted {
  list: ChatSummary[] = []
  #order: Order
  #has: (summary: ChatSummary) => boolean

  constructor(order: Order, has: (summary: ChatSummary) => boolean) {
    this.#order = order
    this.#has = has
  }

  add(summary: ChatSummary): void {
    if (this.#has(summary)) this.list.splice(this.#place(summary), 0, summary)
  }

  remove(summary: ChatSummary): void {
    if (this.#has(summary)) this.list.splice(this.#place(summary), 1)
  }

  /** Where the chat is, or -1. */
  indexOf(summary: ChatSummary): number {
    return this.#has(summary) ? this.#place(summary) : -1
  }

  #place(summary: ChatSummary): number {
    let [low, high] = [0, this.list.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#order(this.list[middle] as ChatSummary, summary) < 0) low = middle + 1
      else high = middle
    }
    return low
  }
}

/**
 * The chats of every tab in their order. Each change moves one chat: to sort thousands of chats in every frame would take
 * too long. While the list of all chats is held, its order stays.
 */
export class ChatLists {
  /** How many chats need an answer of the operator, whatever the source. */
  due = 0
  /** How many chats wait for anybody, whatever the source. */
  queued = 0
  #operator = 0
  #source = ""
  #snapshot: readonly ChatSummary[] = []
  #known = new Map<string, ChatSummary>()
  #byOwner = new Map<number, Set<ChatSummary>>()
  #new = new Sorted(byWait, isNew)
  #yours = new Sorted(byWait, summary => isOf(summary, this.#operator) && !!summary.waiting_since)
  #theirs = new Sorted(byActivity, summary => isOf(summary, this.#operator) && !summary.waiting_since)
  #all = new Sorted(byActivity, ({ chat }) => chat.status !== "closed")
  #closed = new Sorted(byActivity, ({ chat }) => chat.status === "closed")
  #waiting = new Sorted(byWait, ({ chat, waiting_since }) => chat.status !== "closed" && !!waiting_since)
  #lists = [this.#new, this.#yours, this.#theirs, this.#all, this.#closed, this.#waiting]
  #held: { list: ChatSummary[]; places: Map<string, number>; moved: Set<string> } | null = null

  /** Takes over the desk's snapshot. `source` is "" for all sources. */
  update(chats: readonly ChatSummary[], operator: number, source: string): void {
    if (operator !== this.#operator || source !== this.#source) {
      for (const summary of this.#known.values()) this.#remove(summary)
      this.#known.clear()
      this.#operator = operator
      this.#source = source
      this.hold(false)
    } else if (chats === this.#snapshot) return
    this.#snapshot = chats
    for (const summary of chats) {
      const { uuid } = summary.chat
      const before = this.#known.get(uuid)
      if (before === summary) continue
      if (before) this.#remove(before)
      this.#known.set(uuid, summary)
      this.#add(summary)
      this.#moved(before, summary)
    }
    if (this.#known.size === chats.length) return
    const kept = new Set(chats.map(({ chat }) => chat.uuid))
    for (const [uuid, summary] of this.#known) {
      if (kept.has(uuid)) continue
      this.#known.delete(uuid)
      this.#remove(summary)
      this.#held?.moved.add(uuid)
    }
  }

  count(tab: Tab): number {
    if (tab === "mine") return this.#yours.list.length + this.#theirs.list.length
    return this.#listOf(tab).length
  }

  /** The time since which the first visitor of all waits; "" if nobody does. */
  get longestWait(): string {
    return this.#waiting.list[0]?.waiting_since ?? ""
  }

  /** The known chats of a visitor, the latest first. */
  of(owner: number): readonly ChatSummary[] {
    return [...(this.#byOwner.get(owner) ?? [])].sort(byActivity)
  }

  /** How many lines the tab has. */
  size(tab: Tab): number {
    if (tab !== "mine") return this.#listOf(tab).length
    const [yours, theirs] = [this.#yours.list.length, this.#theirs.list.length]
    return yours + (yours && 1) + theirs + (theirs && 1)
  }

  at(tab: Tab, index: number): Item | undefined {
    if (tab !== "mine") return itemOf(this.#listOf(tab)[index])
    const turns = [
      { key: "yourTurn", list: this.#yours.list },
      { key: "theirTurn", list: this.#theirs.list },
    ] as const
    for (const { key, list } of turns) {
      if (!list.length) continue
      if (index === 0) return { kind: "section", key, count: list.length }
      if (index <= list.length) return itemOf(list[index - 1])
      index -= list.length + 1
    }
    return undefined
  }

  /** The line of a chat, or -1. */
  indexOf(tab: Tab, uuid: string): number {
    const summary = this.#known.get(uuid)
    if (!summary) return -1
    if (tab === "mine") {
      const yours = this.#yours.indexOf(summary)
      if (yours >= 0) return yours + 1
      const theirs = this.#theirs.indexOf(summary)
      return theirs < 0 ? -1 : theirs + 1 + (this.#yours.list.length && this.#yours.list.length + 1)
    }
    if (tab === "all" && this.#held) return this.#held.places.get(uuid) ?? -1
    return { new: this.#new, all: this.#all, closed: this.#closed }[tab].indexOf(summary)
  }

  /** Changes when the sections are at other lines. */
  get sections(): string {
    return `${this.#yours.list.length}.${this.#theirs.list.length}`
  }

  // ---- the order of all chats

  /** Whether the list of all chats keeps its order. */
  hold(isHeld: boolean): void {
    if (isHeld === !!this.#held) return
    const list = this.#all.list.slice()
    this.#held = isHeld ? { list, places: new Map(list.map(({ chat }, at) => [chat.uuid, at])), moved: new Set() } : null
  }

  /** How many chats have another place than the held list shows. */
  get moved(): number {
    return this.#held?.moved.size ?? 0
  }

  sort(): void {
    if (!this.#held) return
    this.hold(false)
    this.hold(true)
  }

  #moved(before: ChatSummary | undefined, summary: ChatSummary): void {
    if (!this.#held || !this.#isShown(summary)) return
    const { uuid, status } = summary.chat
    const at = this.#held.places.get(uuid)
    if (at !== undefined) this.#held.list[at] = summary
    const isGone = status === "closed"
    if (at === undefined ? !isGone : isGone || before?.activity !== summary.activity) this.#held.moved.add(uuid)
  }

  #listOf(tab: "new" | "all" | "closed"): readonly ChatSummary[] {
    if (tab === "all" && this.#held) return this.#held.list
    return { new: this.#new, all: this.#all, closed: this.#closed }[tab].list
  }

  #isShown({ chat }: ChatSummary): boolean {
    return !this.#source || chat.widget.source === this.#source
  }

  #add(summary: ChatSummary): void {
    if (this.#isShown(summary)) for (const list of this.#lists) list.add(summary)
    this.#count(summary, 1)
    const { id } = summary.chat.owner_user
    this.#byOwner.set(id, (this.#byOwner.get(id) ?? new Set()).add(summary))
  }

  #remove(summary: ChatSummary): void {
    if (this.#isShown(summary)) for (const list of this.#lists) list.remove(summary)
    this.#count(summary, -1)
    const { id } = summary.chat.owner_user
    const others = this.#byOwner.get(id)
    others?.delete(summary)
    if (!others?.size) this.#byOwner.delete(id)
  }

  #count(summary: ChatSummary, step: 1 | -1): void {
    if (isNew(summary)) this.queued += step
    if (isNew(summary) || (isOf(summary, this.#operator) && summary.unread)) this.due += step
  }
}

function itemOf(summary: ChatSummary | undefined): Item | undefined {
  return summary && { kind: "chat", key: summary.chat.uuid, summary }
}
