/** Uses of the SDK that must compile against its declarations, and mistakes that must not. Never run. */
import { openChat, type BrowserChat, type Message } from "../../static/sdk.js"

export async function use(photo: File): Promise<void> {
  const chat: BrowserChat = openChat({ source: "shop", token: () => Promise.resolve("t"), storage: "memory" })
  const stop: () => void = chat.on("message", message => console.log(message.attachments[0]?.url, message.user?.firstname))
  chat.on("ended", reason => reason === "signed_out" && chat.reconnect())
  const stored: Message = await chat.send("text", { files: [photo, "uuid"] }).stored
  const more: boolean = await chat.older()
  for (const { id, failed } of chat.pending) if (failed && more) chat.retry(id)
  stop()
  // @ts-expect-error There is no such event.
  chat.on("closed", () => {})
  // @ts-expect-error Snapshots can't be changed.
  chat.messages.push(stored)
  // @ts-expect-error Properties are read only.
  chat.state = "live"
  // @ts-expect-error There is no such storage.
  openChat({ storage: "cookie" })
}
