import type { Desk, DeskOptions, OperatorSession } from "./desk-types.ts"
import { DeskFeed } from "./desk-feed.ts"
import { browserEnvironment } from "./environment.ts"
import { Session } from "./session.ts"

export type * from "./desk-types.ts"

/** Opens an operator's desk: the chats of all their sources, live. */
export function openDesk(options: DeskOptions): Desk {
  const { server = new URL(".", import.meta.url).href, storage = "local" } = options
  return new DeskFeed(browserEnvironment(storage), server.replace(/\/$/, ""), options)
}

/** Returns the sign-in of an operator's account. For pages of the server's own origin, because of its cookie. */
export function openOperatorSession(server: string = new URL(".", import.meta.url).href): OperatorSession {
  return new Session(browserEnvironment("memory"), server.replace(/\/$/, ""))
}
