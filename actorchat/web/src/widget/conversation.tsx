import type { BrowserChat, Message, User } from "../sdk/types.ts"
import { Avatar } from "../ui/avatar.tsx"
import { focusFirst } from "../ui/focus.ts"
import { duration } from "../ui/formats.ts"
import type { Texts } from "../ui/i18n.ts"
import { Icon } from "../ui/icons.tsx"
import type { Language } from "../ui/locales/en.ts"
import { nameOf } from "../ui/people.ts"
import { soundIsOn } from "../ui/sound.ts"
import { View } from "../ui/view.ts"
import type { WidgetInfo } from "./config.ts"

interface HeaderProperties {
  title: string
  menu: boolean
  setMenu: (open: boolean) => void
  toggleSound: () => void
  /** Missing if the panel can't be closed. */
  close: (() => void) | undefined
}

export class Header extends View<HeaderProperties> {
  render() {
    const { title, menu, setMenu, toggleSound, close } = this.props
    const { chat, t } = this.context
    const operator = chat.chat?.operator_user
    const isHere = !!operator && chat.people.some(user => user.role === "operator" && user.id === operator.id)
    const canEnd = chat.messages.length > 0 && chat.status !== "closed" && chat.state === "live"
    return (
      <header class="h">
        {close && (
          <button type="button" class="ib back" aria-label={t("backToPage")} onClick={close}>
            <Icon name="back" />
          </button>
        )}
        {operator && <Avatar user={operator} online={isHere} />}
        <div class="who">
          <b>
            <bdi>{nameOf(operator) || title || t("support")}</bdi>
          </b>
          <span>{[nameOf(operator) && title, isHere && t("online")].filter(Boolean).join(" · ")}</span>
        </div>
        <button
          type="button"
          class="ib"
          aria-label={t("more")}
          aria-haspopup="menu"
          aria-expanded={menu}
          onClick={() => setMenu(!menu)}
        >
          <Icon name="more" width={3} />
        </button>
        {close && (
          <button type="button" class="ib down" aria-label={t("closeWindow")} onClick={close}>
            <Icon name="down" />
          </button>
        )}
        {menu && (
          <div
            class="menu"
            role="menu"
            ref={focusFirst}
            onKeyDown={event => {
              const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
              if (!step) return
              event.preventDefault()
              const items = [...event.currentTarget.querySelectorAll("button")]
              const at = items.indexOf(event.target as HTMLButtonElement)
              items[(at + step + items.length) % items.length]?.focus()
            }}
          >
            <button type="button" role="menuitem" onClick={toggleSound}>
              {t(soundIsOn() ? "soundOff" : "soundOn")}
            </button>
            {canEnd && (
              <button
                type="button"
                role="menuitem"
                onClick={() => {
                  setMenu(false)
                  void chat.close().catch(() => {})
                }}
              >
                {t("endChat")}
              </button>
            )}
          </div>
        )}
      </header>
    )
  }
}

const SHOWN_AFTER = 2_000
const LONG = 60_000

/** One line about a lost connection, after two seconds; after a minute with the time of the next attempt. */
export class ConnectionBar extends View<{ now: number }> {
  render() {
    const { now } = this.props
    const { chat, t } = this.context
    const { lostAt, retryAt } = chat
    if (!lostAt || now - lostAt < SHOWN_AFTER) return null
    const isLong = now - lostAt > LONG && retryAt > now
    return (
      <div class="bar" role="status">
        <Icon name="spin" size={16} />
        <span>{isLong ? t("nextTry", { count: Math.ceil((retryAt - now) / 1000) }) : t("noConnection")}</span>
        {isLong && (
          <button type="button" onClick={() => chat.reconnect()}>
            {t("tryNow")}
          </button>
        )}
      </div>
    )
  }
}

export class Closed extends View<{ writeAgain: () => void }> {
  render() {
    const { chat, t } = this.context
    return (
      <div class="end">
        <b>{t("closedTitle")}</b>
        <p>{closedText(chat, t)}</p>
        <button type="button" class="btn" onClick={this.props.writeAgain}>
          {t("newMessage")}
        </button>
      </div>
    )
  }
}

function closedText(chat: BrowserChat, t: Texts): string {
  const last = chat.messages.findLast((message: Message) => message.type === "system")
  if (last?.user?.role === "user") return t("closedByYou")
  const name = nameOf(last?.user)
  return name ? t("closedBy", { name }) : t("closedMore")
}

const ENDINGS: Record<string, keyof Language> = {
  signed_out: "signedOut",
  not_authenticated: "notAuthenticated",
  not_allowed: "notAllowed",
  not_found: "notFound",
}

export class EndedCard extends View {
  render() {
    const { chat, t } = this.context
    return (
      <div class="end" role="status">
        <p>{t(ENDINGS[chat.reason] ?? "stopped")}</p>
        {chat.reason !== "not_allowed" && (
          <button type="button" class="btn" onClick={() => chat.reconnect()}>
            {t(chat.reason === "signed_out" ? "startAgain" : "tryAgain")}
          </button>
        )}
      </div>
    )
  }
}

/** Before the first message: who is there, a greeting, and questions to begin with. */
export class Start extends View<{ info: WidgetInfo | null }> {
  render() {
    const { chat, t } = this.context
    const { config, online, team = [] } = this.props.info ?? {}
    const presence = [
      t(online ? "onlineNow" : team.length ? "awayNow" : "helloMore"),
      online && config?.answer_seconds && t("answersWithin", { time: duration(t.lang, config.answer_seconds) }),
    ]
    return (
      <div class="mid">
        <div class="log">
          <div class="in">
            <div class="hello">
              <div class="faces" aria-hidden="true">
                {team.slice(0, 3).map(member => (
                  <Avatar key={member.name} user={profileOf(member)} />
                ))}
              </div>
              <h2>{config?.greeting || t("hello")}</h2>
              <p>{presence.filter(Boolean).join(" ")}</p>
            </div>
            {config?.questions.length && chat.state !== "ended" ? (
              <div class="ask">
                {config.questions.map(question => (
                  <button type="button" key={question} onClick={() => chat.send(question)}>
                    {question}
                    <Icon name="right" size={16} />
                  </button>
                ))}
              </div>
            ) : null}
          </div>
        </div>
      </div>
    )
  }
}

function profileOf({ name, avatar }: WidgetInfo["team"][number]): User {
  const [firstname = "", lastname = ""] = name.split(" ")
  return { id: 0, role: "operator", avatar, firstname, lastname, patronymic: "" }
}

export class Foot extends View<{ privacy: string }> {
  render() {
    const { privacy } = this.props
    const { t } = this.context
    return (
      <>
        {/^https?:/.test(privacy) && (
          <>
            <a href={privacy} target="_blank" rel="noopener noreferrer">
              {t("privacy")}
            </a>
            {" · "}
          </>
        )}
        {t("poweredBy")}
      </>
    )
  }
}
