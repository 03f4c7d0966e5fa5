/** Numbers and durations in words of a language. */

export function number(lang: string, value: number): string {
  return new Intl.NumberFormat(lang, { maximumFractionDigits: value < 10 ? 1 : 0 }).format(value)
}

export function withUnit(lang: string, value: number, unit: "millisecond" | "second"): string {
  return new Intl.NumberFormat(lang, {
    style: "unit",
    unit,
    unitDisplay: "short",
    maximumFractionDigits: value < 10 ? 1 : 0,
  }).format(value)
}

const UNITS = [
  ["second", 1],
  ["minute", 60],
  ["hour", 3600],
  ["day", 86_400],
] as const

/** How long something lasts, in the largest unit that fits. */
export function shortDuration(lang: string, seconds: number): string {
  const [unit, length] = UNITS.findLast(([, length]) => seconds >= length) ?? UNITS[0]
  return new Intl.NumberFormat(lang, { style: "unit", unit, unitDisplay: "narrow", maximumFractionDigits: 0 }).format(
    Math.floor(seconds / length),
  )
}
