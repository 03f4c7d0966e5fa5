/** What the loader and the panel know of each other. They may be of different versions, so it stays small. */

/** The settings of the tag's `data-` attributes, of an element's attributes and of `actorchat.set`. */
export interface Settings {
  source: string
  server: string
  accent: string
  theme: string
  side: string
  offset: string
  lang: string
  launcher: string
  label: string
  open: string
  z: string
  dir: string
}

export type WidgetEvent = "ready" | "open" | "close" | "unread" | "message"

/** What the loader gives to the panel. */
export interface Shell {
  host: HTMLElement
  root: ShadowRoot
  /** The panel and the peek are rendered into it; it comes before the launcher. */
  place: HTMLElement
  launcher: HTMLButtonElement
  settings: Settings
  /** Whether the panel is a part of the page: always open, without a launcher. */
  inline?: boolean
  /** Colours the launcher and the panel. The colour is darkened as far as needed. */
  accent: (color: string) => void
  emit: (event: WidgetEvent, value?: unknown) => void
}

/** What the panel gives to the loader. */
export interface PanelControl {
  open: () => void
  close: () => void
  isOpen: () => boolean
  send: (text: string) => void
  identify: (token: string) => void
  signOut: () => void
  /** The loader has changed `settings`. */
  update: () => void
  destroy: () => void
}

export interface PanelModule {
  start: (shell: Shell) => Promise<PanelControl>
}
