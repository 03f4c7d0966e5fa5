import { useContext } from "preact/hooks"
import { focusFirst } from "../ui/focus.ts"
import { Card } from "./card.tsx"
import { ConsoleContext } from "./context.ts"
import { Conversation } from "./conversation.tsx"
import { Icon } from "./icons.tsx"
import { Lightbox } from "./lightbox.tsx"
import { focusOpener, isApple } from "./keys.ts"
import { List } from "./list.tsx"
import { Face } from "./people.tsx"
import { isAdminSection, type Section } from "./state.ts"

/** The console of an operator who is signed in. */
export function App({ now }: { now: number }) {
  const ui = useContext(ConsoleContext)
  const { t, desk, section, room } = ui
  const isLost = desk.lostAt > 0 && now - desk.lostAt > 2_000
  const pane = section !== "chats" ? "page" : room ? "chat" : "list"
  return (
    <div class={`app${room && ui.isCardOpen && section === "chats" ? " withcard" : ""}`} data-pane={pane}>
      <Rail />
      <main>
        <h1 class="sr">{t("console")}</h1>
        {isLost && (
          <div class="lost" role="status">
            <span>{t("consoleOffline")}</span>
            <button type="button" onClick={() => desk.reconnect()}>
              {t("tryNow")}
            </button>
          </div>
        )}
        {section !== "chats" && <OtherPage />}
        {section === "chats" && (
          <>
            <List now={now} />
            {room ? (
              <Conversation room={room} />
            ) : (
              <section class="chat none">
                <p>{t("pickChat")}</p>
                <p class="small wide">{t("pickChatKeys", { keys: isApple() ? "⌘K" : "Ctrl+K" })}</p>
                {ui.notice && (
                  <p class="error" role="alert">
                    {ui.notice}
                  </p>
                )}
              </section>
            )}
            {room && ui.isCardOpen && <Card room={room} now={now} />}
          </>
        )}
      </main>
      {ui.pages?.dialog()}
      <Lightbox />
      <div class="sr" role="status" aria-live="polite">
        {/* A new element, so that an equal text is read again. */}
        <span key={ui.said.count}>{ui.said.text}</span>
      </div>
    </div>
  )
}

/** A page that is loaded when it is shown first. */
function OtherPage() {
  const ui = useContext(ConsoleContext)
  const { t, pages, section } = ui
  if (pages) return pages.show(section)
  return (
    <section class="page">
      {ui.pagesFailed && (
        <p role="alert">
          {t("pageFailed")}{" "}
          <button type="button" class="btn" onClick={() => location.reload()}>
            {t("reload")}
          </button>
        </p>
      )}
    </section>
  )
}

function Rail() {
  const ui = useContext(ConsoleContext)
  const { t } = ui
  const waiting = ui.lists.queued
  const link = (section: Section, icon: "inbox" | "code" | "slash" | "sliders", name: string, count = 0) => (
    <button
      type="button"
      aria-label={count ? `${name}, ${t("waiting", { count })}` : name}
      aria-current={ui.section === section || (section === "sources" && isAdminSection(ui.section)) ? "page" : undefined}
      onClick={() => ui.show(section)}
    >
      <Icon name={icon} size={22} />
      {count > 0 && <span class="n num">{count > 99 ? "99+" : count}</span>}
    </button>
  )
  return (
    <nav class="rail" aria-label={t("mainMenu")}>
      <span class="logo" aria-hidden="true">
        <Icon name="logo" size={22} />
      </span>
      {link("chats", "inbox", t("chats"), waiting)}
      {link("replies", "slash", t("savedReplies"))}
      {ui.mayBlock ? link("sources", "sliders", t("administration")) : link("sources", "code", t("sources"))}
      <span class="sp" />
      <button type="button" class="opt" aria-label={t("help")} onClick={() => ui.openDialog("help")}>
        <Icon name="help" size={22} />
      </button>
      <Me />
    </nav>
  )
}

function Me() {
  const ui = useContext(ConsoleContext)
  const { t, desk, dialog } = ui
  const { me } = desk
  if (!me) return null
  const isOnline = desk.state === "live" && !me.away
  const name = ui.operatorName(me.user) === t("somebody") ? (me.login ?? t("somebody")) : ui.operatorName(me.user)
  const presence = me.away ? t("away") : isOnline ? t("onlineNow") : t("offline")
  return (
    <span class="hold me">
      <button
        type="button"
        aria-label={t("meMenu", { name, presence })}
        aria-haspopup="menu"
        aria-expanded={dialog === "me"}
        onClick={() => ui.openDialog(dialog === "me" ? null : "me")}
      >
        <Face user={me.user} name={name} online={isOnline} />
      </button>
      {dialog === "me" && (
        <div class="menu" role="menu" ref={focusFirst} onClick={event => focusOpener(event.currentTarget)}>
          <p>
            <b>
              <bdi>{name}</bdi>
            </b>
            <small>{presence}</small>
          </p>
          <button type="button" role="menuitem" onClick={() => void ui.act(() => desk.setAway(!me.away))}>
            {t(me.away ? "comeBack" : "goAway")}
          </button>
          <button
            type="button"
            role="menuitem"
            onClick={() => {
              ui.openDialog(null)
              ui.show("settings")
            }}
          >
            {t("settings")}
          </button>
          <button type="button" role="menuitem" onClick={() => void ui.signOut()}>
            {t("signOut")}
            <small>{t("signOutHint")}</small>
          </button>
        </div>
      )}
    </span>
  )
}
