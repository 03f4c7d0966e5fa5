import { textsOf, type Texts } from "../ui/i18n.ts"
import { en, type Language } from "./locales/en.ts"

/** The console's texts in the first of the languages that there is, else in English. */
export async function consoleTexts(languages: readonly string[]): Promise<Texts<Language>> {
  for (const tag of languages) {
    const name = tag.toLowerCase().split("-")[0]
    if (name === "en") return textsOf(tag, en)
    if (name !== "ru") continue
    try {
      return textsOf(tag, (await import("./locales/ru.ts")).ru)
    } catch {
      // A language that can't be loaded must not keep the console from opening.
      break
    }
  }
  return textsOf("en", en)
}
