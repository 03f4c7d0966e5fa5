import type { Message } from "../sdk/types.ts"
import { Avatar } from "../ui/avatar.tsx"
import type { Texts } from "../ui/i18n.ts"
import type { Language } from "../ui/locales/en.ts"
import { Log, reasonOf, type LogView } from "../ui/log.tsx"
import { nameOf } from "../ui/people.ts"
import { View } from "../ui/view.ts"

/** The visitor's transcript, with dots while operators type. `note` is a line below the messages. */
export class VisitorLog extends View<{ note: string; onBottom: (isThere: boolean) => void }> {
  render() {
    const { note, onBottom } = this.props
    const { chat, t } = this.context
    const view: LogView = {
      chat,
      side: "user",
      own: "me",
      nameOf: user => (user.role === "user" ? t("you") : nameOf(user) || t("operator")),
      face: user => user?.role === "operator" && <Avatar user={user} small />,
      system: message => <p class="sys">{systemText(message, t)}</p>,
      joined: user => nameOf(user) && <p class="sys">{t("joined", { name: nameOf(user) })}</p>,
      reason: code => reasonOf(t, code),
    }
    return (
      <Log view={view} onBottom={onBottom}>
        {note && <p class="sys">{note}</p>}
        {chat.typing.map(user => (
          <div class="g" key={`t${user.id}`}>
            <Avatar user={user} small />
            <div class="st">
              <p class="bub dots" role="img" aria-label={t("typing", { name: nameOf(user) || t("operator") })}>
                <i />
                <i />
                <i />
              </p>
            </div>
          </div>
        ))}
      </Log>
    )
  }
}

const SYSTEM_TEXTS: Record<string, keyof Language> = {
  "The chat was closed.": "systemClosed",
  "The chat was reopened.": "systemReopened",
  "The chat was passed to another operator.": "systemTransferred",
  "The chat was returned to the queue.": "systemReturned",
}

/** The server's own texts are English; those that are known are shown in the visitor's language. */
function systemText(message: Message, t: Texts): string {
  const key = SYSTEM_TEXTS[message.text]
  return key ? t(key) : message.text
}
