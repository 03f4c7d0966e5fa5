/** Times and sizes in words of a language. */

const formats = new Map<string, Intl.DateTimeFormat>()

/** Returns a format that is kept: to make one takes long. */
export function format(lang: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = lang + JSON.stringify(options)
  const known = formats.get(key)
  if (known) return known
  const made = new Intl.DateTimeFormat(lang, options)
  formats.set(key, made)
  return made
}

export function clock(lang: string, date: Date): string {
  return format(lang, { hour: "numeric", minute: "2-digit" }).format(date)
}

/** The day, with the year if it is another one. */
export function day(lang: string, date: Date, now: Date): string {
  const year = date.getFullYear() === now.getFullYear() ? {} : ({ year: "numeric" } as const)
  return format(lang, { weekday: "long", day: "numeric", month: "long", ...year }).format(date)
}

export function daysBetween(a: Date, b: Date): number {
  const midnight = (date: Date): number => Date.UTC(date.getFullYear(), date.getMonth(), date.getDate())
  return Math.round((midnight(b) - midnight(a)) / 86_400_000)
}

/** A duration in the unit that fits: seconds, minutes, hours or days. */
export function duration(lang: string, seconds: number): string {
  const units = [
    ["second", 1],
    ["minute", 60],
    ["hour", 3600],
    ["day", 86_400],
  ] as const
  const [unit, length] = units.findLast(([, length]) => seconds >= length) ?? units[0]
  return new Intl.NumberFormat(lang, { style: "unit", unit, unitDisplay: "long" }).format(Math.ceil(seconds / length))
}

export function size(lang: string, bytes: number): string {
  const isLarge = bytes >= 1_000_000
  const [value, unit] = isLarge ? [bytes / 1_000_000, "megabyte"] : [bytes / 1000, "kilobyte"]
  const options = { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: value < 10 ? 1 : 0 } as const
  return new Intl.NumberFormat(lang, options).format(value)
}

const numbers = new Map<string, Intl.NumberFormat>()

export function number(lang: string, value: number): string {
  const format = numbers.get(lang) ?? new Intl.NumberFormat(lang)
  numbers.set(lang, format)
  return format.format(value)
}
