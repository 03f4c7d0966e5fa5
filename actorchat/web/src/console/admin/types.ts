/** What the calls of the administration answer with; the OpenAPI document describes it. */
import type { Rights } from "../../sdk/desk-types.ts"
import type { User } from "../../sdk/types.ts"

export interface Account {
  id: number
  login: string
  rights: Rights
  sources: string[]
  disabled: boolean
  password: "set" | "one_time" | "none"
  created: string
  last_sign_in: string | null
  user: User
  is_online: boolean
}

export interface NewAccount {
  login: string
  rights: Rights
  sources: string[]
  firstname: string
  lastname: string
}

export interface TagCount {
  tag: string
  chats: number
}

export type TranscriptFormat = "text" | "json" | "html"

/** A block of a visitor or of network addresses; the other one is null. */
export interface Block {
  id: number
  user: number | null
  address: string | null
  reason: string
  /** The id of the operator who has blocked. */
  by: number
  created: string
  /** null is for ever. */
  until: string | null
}

export interface NewBlock {
  user?: number
  address?: string
  reason: string
  seconds?: number
}

export type ActorSort = "inbox" | "handled" | "age" | "restarts" | "name"

export interface ActorRow {
  name: string
  family: string | null
  kind: string
  state: string
  age: number
  inbox: number
  bound: number
  handled: number
  restarts: number
  message: string | null
  busy_for: number
  waiting_on: string | null
  dropped: number
}

export interface Family {
  name: string | null
  actors: number
  busy: number
  queued: number
  handled: number
  dropped: number
}

export interface ActorTree {
  families: Family[]
  rows: ActorRow[]
  matched: number
  page: number
  pages: number
  lost: Record<string, number>
}

/** How many values are at most `limit`; null is no limit. */
export interface CountUpTo {
  limit: number | null
  count: number
}

export interface ServerNumbers {
  /** Seconds since 1970. */
  time: number
  version: string
  draining: boolean
  storage_available: boolean
  sockets: number
  rooms: number
  feed_items_waiting: number
  operations_waiting: number
  messages_stored: number
  commit_seconds: CountUpTo[]
  slow_sockets: number
  actor_restarts: number
  brokers: { broker: string; available: boolean; behind_seconds: number }[]
}
