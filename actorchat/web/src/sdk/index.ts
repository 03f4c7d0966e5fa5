import { Chat } from "./chat.ts"
import { browserEnvironment } from "./environment.ts"
import type { BrowserChat, ChatOptions } from "./types.ts"

export type * from "./types.ts"

/** Opens a visitor's chat. Nothing is sent until the visitor is known from before, or writes. */
export function openChat(options: ChatOptions = {}): BrowserChat {
  const { source = "lk", server = new URL(".", import.meta.url).href, token, storage = "local", pages = true } = options
  return new Chat(browserEnvironment(storage), { source, server: server.replace(/\/$/, ""), token, pages })
}
