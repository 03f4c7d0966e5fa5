/** A text as it is compared: without case and diacritics, `ё` as `е`. */
export function folded(text: string): string {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLocaleLowerCase()
}

/** How well a text fits to a query: 0 is best, null not at all. Every word of the query must be in the text. */
export function fit(text: string, query: string): number | null {
  const [within, wanted] = [folded(text), folded(query).trim()]
  if (!wanted || within.startsWith(wanted)) return 0
  const words = wanted.split(/\s+/)
  if (!words.every(word => within.includes(word))) return null
  const starts = within.split(/[^\p{L}\p{N}]+/u)
  return words.every(word => starts.some(start => start.startsWith(word))) ? 1 : 2
}

/** The items that fit, the best first; equal ones stay in their order. */
export function ranked<T>(items: readonly T[], textOf: (item: T) => string, query: string): T[] {
  return items
    .map(item => ({ item, rank: fit(textOf(item), query) }))
    .filter((found): found is { item: T; rank: number } => found.rank !== null)
    .sort((a, b) => a.rank - b.rank)
    .map(({ item }) => item)
}
