import { languages } from "./languages.ts"
import { en, type Language } from "./locales/en.ts"

type Entries = Record<string, string | (Partial<Record<Intl.LDMLPluralRule, string>> & { other: string })>

/** Returns a text by its key, with its parameters filled in. `count` selects the plural. */
export interface Texts<L extends Entries = Language> {
  lang: string
  (key: keyof L, parameters?: Record<string, string | number>): string
}

/** Returns the first of the wanted languages that there is, else English. */
export async function loadTexts(wanted: readonly string[]): Promise<Texts> {
  for (const tag of wanted) {
    const name = tag.toLowerCase().split("-")[0] ?? ""
    if (name === "en") return textsOf(tag, en)
    const load = languages[name]
    if (!load) continue
    try {
      return textsOf(tag, await load())
    } catch {
      // A language that can't be loaded must not keep the chat from opening.
      break
    }
  }
  return textsOf("en", en)
}

export function textsOf<L extends Entries = Language>(lang: string, language: L): Texts<L> {
  const rules = new Intl.PluralRules(lang)
  const texts = (key: keyof L, parameters: Record<string, string | number> = {}): string => {
    const entry = language[key] as Entries[string]
    const text = typeof entry === "string" ? entry : (entry[rules.select(Number(parameters["count"]))] ?? entry.other)
    return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(parameters[name] ?? whole))
  }
  return Object.assign(texts, { lang })
}
