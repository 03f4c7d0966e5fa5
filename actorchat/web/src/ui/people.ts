import type { User } from "../sdk/types.ts"
import { clean } from "./clean.ts"

/** The name to show; empty if the profile has none. */
export function nameOf(user: User | null | undefined): string {
  return user ? clean(`${user.firstname} ${user.lastname}`).trim() : ""
}

/** One of five colours. It comes from the name, which is all that the widget knows of operators before the chat. */
export function colorOf(user: User): number {
  return [...nameOf(user)].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % 5
}

export function initialsOf(user: User): string {
  return [user.firstname, user.lastname]
    .map(name => [...clean(name).trim()][0] ?? "")
    .join("")
    .toUpperCase()
}
