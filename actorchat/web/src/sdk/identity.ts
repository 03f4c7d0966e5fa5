import type { User } from "./types.ts"
import type { Visit } from "./api.ts"
import type { Store } from "./store.ts"

/** A visitor, as it is kept in the browser's storage. */
export interface Identity {
  token: string
  user: User
  /** The chat's uuid. */
  chat: string
  /** When to renew the token, in epoch milliseconds: halfway through its life. */
  renewAt: number
}

const KEY = "visit"
/** The key of the anonymous visitor whose chats the signed-in one gets. */
export const FORMER = "former"
const FIRST_ANONYMOUS_ID = 2 ** 52

/** Whether the visitor has no identity besides the one in this browser. */
export function isAnonymous(user: User): boolean {
  return user.id >= FIRST_ANONYMOUS_ID
}

export function identityOf(visit: Visit, chat: string, now: number): Identity {
  const expires = Number(claims(visit.token)["exp"] ?? 0) * 1000
  return { token: visit.token, user: visit.user, chat, renewAt: expires ? (now + expires) / 2 : Infinity }
}

/** Whether the token is that user's. */
export function isOf(token: string, user: User): boolean {
  const { sub, role } = claims(token)
  return sub === String(user.id) && role === user.role
}

export function saveIdentity(store: Store, identity: Identity | null, key = KEY): void {
  if (identity) store.set(key, JSON.stringify(identity))
  else store.remove(key)
}

export function loadIdentity(store: Store, key = KEY): Identity | null {
  try {
    const value = JSON.parse(store.get(key) ?? "null") as Identity | null
    // JSON has no infinity: null then means that the token does not expire.
    return value && value.token && value.chat && value.user ? { ...value, renewAt: value.renewAt ?? Infinity } : null
  } catch {
    return null
  }
}

function claims(token: string): Record<string, unknown> {
  try {
    const part = token.split(".")[1] ?? ""
    const bytes = Uint8Array.from(atob(part.replace(/-/g, "+").replace(/_/g, "/")), char => char.charCodeAt(0))
    return JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>
  } catch {
    // Not a JWT. Its expiry shows when the server refuses it.
    return {}
  }
}
