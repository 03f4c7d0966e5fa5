import type { Language } from "./locales/en.ts"

/** The languages besides English, each loaded when it is needed. */
export const languages: Record<string, () => Promise<Language>> = {
  ru: () => import("./locales/ru.ts").then(module => module.ru),
}
