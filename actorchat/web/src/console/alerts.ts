import type { ChatRecord, Message } from "../sdk/types.ts"
import { ring } from "../ui/sound.ts"
import { line } from "./people.tsx"
import type { Console } from "./state.ts"

const AGAIN = 30_000
const ICON = (dot: boolean): string =>
  `data:image/svg+xml,${encodeURIComponent(
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="#0b6e7f"/><path d="M16 8c5.200 0 9 3.300 9 7.500S21.200 23 16 23c-1.200 0-2.300-.2-3.300-.5L8 24.300l1.400-3.700C7.900 19.200 7 17.500 7 15.500 7 11.300 10.800 8 16 8Z" fill="none" stroke="#fff" stroke-width="2"/>${
      dot ? '<circle cx="25" cy="7" r="7" fill="#e0545c"/>' : ""
    }</svg>`,
  )}`

/** Tells the operator what needs an answer: in the title, by sound, and by notifications of the browser. */
export class Alerts {
  #ui: Console
  #count = -1
  #timer = 0
  #stops: (() => void)[]

  constructor(ui: Console) {
    this.#ui = ui
    const { desk } = ui
    this.#stops = [
      desk.on("message", message => this.#onMessage(message)),
      desk.on("chat", (chat, before) => this.#onChat(chat, before)),
    ]
    this.#timer = setInterval(() => {
      if (ui.settings.repeat && this.#count > 0 && desk.leads && !document.hasFocus()) ring()
    }, AGAIN)
  }

  /** Shows how many chats need an answer. */
  update(): void {
    const { lists, t } = this.#ui
    const count = lists.due
    if (count === this.#count) return
    this.#count = count
    document.title = `${count ? `(${count}) ` : ""}${t("console")}`
    document.querySelector<HTMLLinkElement>("link[rel=icon]")?.setAttribute("href", ICON(count > 0))
  }

  stop(): void {
    for (const stop of this.#stops) stop()
    clearInterval(this.#timer)
  }

  #onMessage(message: Message): void {
    const { chat, user, text, attachments } = message
    const { desk, t, settings } = this.#ui
    if (!settings.alertMessage || message.type !== "standard" || user?.role !== "user" || chat.operator_user?.id !== desk.me?.user.id) return
    const name = this.#ui.nameOf(chat.owner_user)
    this.#alert(chat.uuid, t("newMessageAlert", { name }), line(text) || line(attachments[0]?.filename ?? ""))
  }

  #onChat(chat: ChatRecord, before: ChatRecord | null): void {
    const { desk, t, settings } = this.#ui
    const name = this.#ui.nameOf(chat.owner_user)
    const me = desk.me?.user.id
    if (chat.status !== "new") return
    if (settings.alertNew && !chat.operator_user) this.#alert(chat.uuid, t("newChatAlert", { name }), "")
    else if (settings.alertGiven && chat.operator_user?.id === me && before?.operator_user?.id !== me) {
      this.#alert(chat.uuid, t("assignedAlert", { name }), "")
    }
  }

  #alert(uuid: string, title: string, body: string): void {
    const ui = this.#ui
    if (!ui.desk.leads || (ui.selected === uuid && document.hasFocus())) return
    ring()
    if (document.hasFocus() || !notificationsAreOn(ui)) return
    const shown = new Notification(title, { body, tag: uuid })
    shown.onclick = () => {
      focus()
      ui.select(uuid)
      shown.close()
    }
  }
}

export function notificationsAreOn(ui: Console): boolean {
  return ui.store.get("notify") === "on" && typeof Notification !== "undefined" && Notification.permission === "granted"
}
