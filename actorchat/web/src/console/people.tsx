import type { User } from "../sdk/types.ts"
import { clean } from "../ui/clean.ts"
import { Avatar } from "../ui/avatar.tsx"
import type { Texts } from "../ui/i18n.ts"
import { clock, daysBetween, format } from "../ui/formats.ts"
import type { Language } from "./locales/en.ts"

/** A user's picture, or initials; anonymous visitors all have the same letter. */
export function Face({ user, name, size = "", online }: { user: User; name: string; size?: "" | "s" | "l"; online?: boolean }) {
  const shown = user.firstname || user.lastname ? user : { ...user, firstname: name }
  return (
    <span class={`face ${size}`}>
      <Avatar user={shown} small={size === "s"} online={online ?? false} />
    </span>
  )
}

/** How long ago something was, in a word or two. */
export function ago(t: Texts<Language>, since: string, now: number): string {
  const minutes = Math.floor((now - Date.parse(since)) / 60_000)
  if (minutes < 1) return t("now")
  if (minutes < 60) return t("minutes", { count: minutes })
  if (minutes < 48 * 60) return t("hours", { count: Math.floor(minutes / 60) })
  return t("days", { count: Math.floor(minutes / 1440) })
}

/** The time of today, else the day. */
export function shortTime(t: Texts<Language>, text: string, now: number): string {
  const [date, today] = [new Date(text), new Date(now)]
  if (daysBetween(date, today) === 0) return clock(t.lang, date)
  const year = date.getFullYear() === today.getFullYear() ? {} : ({ year: "numeric" } as const)
  return format(t.lang, { day: "numeric", month: "short", ...year }).format(date)
}

/** One line of a text, without what would break it. */
export function line(text: string): string {
  return clean(text).replace(/\s+/g, " ").trim()
}
