/** What operators choose for their consoles. */
export interface Settings {
  /** "" follows the device. */
  theme: "" | "light" | "dark"
  /** "" follows the browser. */
  language: "" | "en" | "ru"
  /** Whether single letters do something outside of text fields. */
  letters: boolean
  /** Whether there is an alert for new chats, for those that a colleague gave, and for messages in own chats. */
  alertNew: boolean
  alertGiven: boolean
  alertMessage: boolean
  /** Whether sounds are repeated while somebody waits. */
  repeat: boolean
}

const CHOICES = { theme: ["", "light", "dark"], language: ["", "en", "ru"] } as const
const SWITCHES = ["letters", "alertNew", "alertGiven", "alertMessage", "repeat"] as const

/** The settings as they were stored. What is missing or is no such value has its default. */
export function settingsOf(stored: Record<string, unknown>): Settings {
  const choice = <Name extends keyof typeof CHOICES>(name: Name): Settings[Name] =>
    (CHOICES[name] as readonly unknown[]).includes(stored[name]) ? (stored[name] as Settings[Name]) : ""
  const switches = Object.fromEntries(SWITCHES.map(name => [name, stored[name] !== false]))
  return { theme: choice("theme"), language: choice("language"), ...switches } as Settings
}

/** Which languages to try, the best first. */
export function languagesFor({ language }: Settings, preferred: readonly string[]): readonly string[] {
  // With the region that the browser knows, which dates depend on.
  return language ? [...preferred.filter(tag => tag.toLowerCase().split("-")[0] === language), language] : preferred
}

/** Shows the page in the theme. */
export function showTheme({ theme }: Settings): void {
  const { dataset } = document.documentElement
  if (theme) dataset["theme"] = theme
  else delete dataset["theme"]
}

/** A stored object, empty if it is none. */
export function parse(json: string | null): Record<string, unknown> {
  try {
    return JSON.parse(json ?? "{}") as Record<string, unknown>
  } catch {
    return {}
  }
}

/** The browser's storage, if the page may use it. */
export function storage(): Storage | null {
  try {
    return localStorage
  } catch {
    return null
  }
}
