import { createContext } from "preact"
import type { BrowserChat } from "../sdk/types.ts"
import type { Texts } from "./i18n.ts"

/** What the server accepts, as far as it is known. It checks everything again. */
export interface Limits {
  text: number
  /** Bytes of one file. */
  size: number
  /** Files in one message. */
  number: number
  /** `image`, `video`, `audio`, `file`, `program` and media types. */
  types: string[]
}

/** An image of a message, shown on its own. */
export interface ShownImage {
  url: string
  name: string
  /** The message's id. */
  message: number
}

/** What the components of one page share. */
export interface Ui {
  chat: BrowserChat
  t: Texts
  server: string
  limits: Limits | null
  /** Shows an image over everything; null hides it. */
  showImage: (image: ShownImage | null) => void
}

export const UiContext = createContext<Ui>(null as unknown as Ui)
