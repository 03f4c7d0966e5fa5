import { elementScroll, observeElementOffset, observeElementRect, Virtualizer } from "@tanstack/virtual-core"
import { useContext, useLayoutEffect, useMemo, useReducer, useRef } from "preact/hooks"
import type { ChatSummary, WidgetInfo } from "../sdk/desk-types.ts"
import type { Message } from "../sdk/types.ts"
import { number } from "../ui/formats.ts"
import type { Texts } from "../ui/i18n.ts"
import type { Tab } from "./chat-lists.ts"
import { ConsoleContext } from "./context.ts"
import { Icon } from "./icons.tsx"
import type { Language } from "./locales/en.ts"
import { isEqual, memo } from "./memo.tsx"
import { ago, Face, line, shortTime } from "./people.tsx"
import { systemKey } from "./system-texts.ts"

const ROW = 62
const SECTION = 32
/** After this long an answer is late, if the source has no target of its own. */
const PATIENCE = 120
const TABS: readonly Tab[] = ["new", "mine", "all", "closed"]
const TAB_NAMES = { new: "tabNew", mine: "tabMine", all: "tabAll", closed: "tabClosed" } as const

/** The list of chats, with its tabs and the search. */
export function List({ now }: { now: number }) {
  const ui = useContext(ConsoleContext)
  const { t, desk, tab, found, lists } = ui
  const sources = desk.me?.sources ?? []
  return (
    <section class={`list${desk.lostAt ? " stale" : ""}`} aria-label={t("chats")}>
      <header>
        <div class="top">
          <h2>{t("chats")}</h2>
          {sources.length > 1 && (
            <select
              aria-label={t("source")}
              value={ui.source}
              onChange={event => {
                ui.source = event.currentTarget.value
                ui.changed()
              }}
            >
              <option value="">{t("allSources")}</option>
              {sources.map(source => (
                <option key={source}>{source}</option>
              ))}
            </select>
          )}
        </div>
        <label class="find">
          <Icon name="find" size={18} />
          <span class="sr">{t("search")}</span>
          <input
            id="search"
            type="search"
            placeholder={t("search")}
            value={ui.query}
            onInput={event => ui.search(event.currentTarget.value)}
            onKeyDown={event => {
              if (event.key !== "Escape") return
              event.stopPropagation()
              ui.search("")
              event.currentTarget.blur()
            }}
          />
          {!ui.query && <kbd class="wide">/</kbd>}
        </label>
        <div class="tabs" role="tablist" aria-label={t("whichChats")}>
          {TABS.map(name => (
            <button
              key={name}
              type="button"
              role="tab"
              aria-selected={!found && tab === name}
              aria-controls="rows"
              onClick={() => ui.showTab(name)}
            >
              {t(TAB_NAMES[name])}
              {lists.count(name) > 0 && (
                <span class={`c num${name === "new" ? " hot" : ""}`}>{number(t.lang, lists.count(name))}</span>
              )}
            </button>
          ))}
        </div>
      </header>
      {found ? <Found now={now} /> : !desk.ready && !desk.chats.length ? <Ghosts /> : <Rows key={tab} now={now} />}
      <Team waiting={lists.longestWait} now={now} />
    </section>
  )
}

function Rows({ now }: { now: number }) {
  const ui = useContext(ConsoleContext)
  const { t, desk, tab, lists } = ui
  const scroller = useRef<HTMLDivElement>(null)
  const [, draw] = useReducer((count: number, _: void) => count + 1, 0)
  const count = lists.size(tab)
  const virtualizer = useMemo(
    () =>
      new Virtualizer<HTMLDivElement, HTMLDivElement>({
        count: 0,
        getScrollElement: () => scroller.current,
        estimateSize: index => (ui.lists.at(tab, index)?.kind === "section" ? SECTION : ROW),
        overscan: 6,
        scrollToFn: elementScroll,
        observeElementRect,
        observeElementOffset,
        onChange: () => draw(),
      }),
    [],
  )
  virtualizer.setOptions({ ...virtualizer.options, count })
  // Sizes are kept by index, and those of sections differ.
  useMemo(() => virtualizer.measure(), [tab === "mine" && lists.sections])
  useLayoutEffect(() => virtualizer._didMount(), [])
  const attention = useRef({ pointer: false, focus: false })
  const attend = (change: { pointer: boolean } | { focus: boolean }): void => {
    const { pointer, focus } = Object.assign(attention.current, change)
    lists.hold(tab === "all" && (pointer || focus))
    ui.changed()
  }
  useLayoutEffect(() => () => lists.hold(false), [])
  useLayoutEffect(() => virtualizer._willUpdate())
  const at = lists.indexOf(tab, ui.cursor)
  useLayoutEffect(() => {
    if (at >= 0) virtualizer.scrollToIndex(at, { align: "auto" })
  }, [ui.cursor])

  if (!count) return <Empty />
  const { moved } = lists
  const sort = (): void => {
    lists.sort()
    scroller.current?.scrollTo({ top: 0 })
    scroller.current?.focus()
    ui.changed()
  }
  const list = (
    <div
      class="rows"
      id="rows"
      ref={scroller}
      role="listbox"
      tabIndex={0}
      aria-label={t(TAB_NAMES[tab])}
      aria-activedescendant={at >= 0 ? `chat-${ui.cursor}` : undefined}
      onFocusIn={() => attend({ focus: true })}
      onFocusOut={() => attend({ focus: false })}
    >
      <div class="all" role="presentation" style={{ height: `${virtualizer.getTotalSize()}px` }}>
        {virtualizer.getVirtualItems().map(({ index, start }) => {
          const item = lists.at(tab, index)
          return (
            item && (
              <div class="at" role="presentation" key={item.key} style={{ transform: `translateY(${start}px)` }}>
                {item.kind === "section" ? (
                  <div class="sec" role="presentation">
                    <span>{t(item.key)}</span>
                    <span class="num">{item.count}</span>
                  </div>
                ) : (
                  <Row
                    summary={item.summary}
                    time={timeOf(t, item.summary, now)}
                    isLate={isLate(item.summary, ui.widgets.get(item.summary.chat.widget.source), now)}
                    typing={desk.typing.get(item.key) ?? ""}
                    isSelected={ui.selected === item.key}
                    isCursor={ui.cursor === item.key}
                    isHere={ui.room?.uuid === item.key && ui.room.people.some(user => user.role === "user")}
                  />
                )}
              </div>
            )
          )
        })}
      </div>
      {tab === "closed" && ui.closedNext && (
        <button type="button" class="btn morechats" onClick={() => void ui.moreClosed()}>
          {t("moreChats")}
        </button>
      )}
    </div>
  )
  return (
    <div class="mid" onPointerEnter={event => event.pointerType === "mouse" && attend({ pointer: true })} onPointerLeave={() => attend({ pointer: false })}>
      {list}
      {moved > 0 && (
        <button type="button" class="pill top" onClick={sort}>
          {t("moved", { count: moved })}
        </button>
      )}
    </div>
  )
}

interface RowProperties {
  summary: ChatSummary
  time: string
  isLate: boolean
  /** What the visitor is writing. */
  typing: string
  isSelected: boolean
  isCursor: boolean
  isHere: boolean
}

const Row = memo(RowView, isEqual)

/** How long the visitor waits, or when something happened last. */
function timeOf(t: Texts<Language>, { waiting_since, last, activity }: ChatSummary, now: number): string {
  return waiting_since ? ago(t, waiting_since, now) : shortTime(t, last?.send_time ?? activity, now)
}

function isLate({ waiting_since }: ChatSummary, widget: WidgetInfo | undefined, now: number): boolean {
  const target = widget?.config.answer_seconds ?? PATIENCE
  return waiting_since !== null && now - Date.parse(waiting_since) > target * 1000
}

function RowView({ summary, time, isLate, typing, isSelected, isCursor, isHere }: RowProperties) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const { chat, last, unread } = summary
  const { uuid, owner_user } = chat
  const name = ui.nameOf(owner_user)
  const colleague = chat.operator_user && chat.operator_user.id !== desk.me?.user.id ? chat.operator_user : null
  return (
    <div
      class={`row${unread ? " un" : ""}`}
      id={`chat-${uuid}`}
      role="option"
      aria-selected={isSelected}
      data-cursor={isCursor || undefined}
      onClick={() => ui.select(uuid)}
    >
      <Face user={owner_user} name={name} online={isHere} />
      <div class="mid">
        <b>
          <bdi>{name}</bdi>
        </b>
        {typing ? <p class="typing">{t("typingText", { text: line(typing) })}</p> : <LastLine last={last} />}
      </div>
      <div class="end">
        <span class={`t num${isLate ? " wait" : ""}`}>{time}</span>
        {unread > 0 ? (
          <span class="n num">
            <span aria-hidden="true">{unread > 99 ? "99+" : unread}</span>
            <span class="sr">{t("unreadCount", { count: unread })}</span>
          </span>
        ) : (
          colleague && (
            <span class="who">
              <bdi>{colleague.firstname || ui.operatorName(colleague)}</bdi>
            </span>
          )
        )}
      </div>
    </div>
  )
}

function LastLine({ last }: { last: ChatSummary["last"] }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  if (!last) return <p />
  const text = line(last.text) || t("fileAlone")
  const key = systemKey(last.text)
  if (key) return <p>{t(key)}</p>
  if (last.type === "system" && last.role === "operator") return <p>{t("noteSaid", { text })}</p>
  const mine = last.role === "operator" && desk.me && last.name === ui.operatorName(desk.me.user)
  return <p>{mine ? t("youSaid", { text }) : last.role === "operator" && last.name ? `${line(last.name)}: ${text}` : text}</p>
}

function Found({ now }: { now: number }) {
  const ui = useContext(ConsoleContext)
  const { t, found } = ui
  if (!found) return null
  const open = (uuid: string): void => ui.select(uuid)
  if (!found.messages.length && !found.people.length) return <div class="rows empty">{t("nothingFound", { query: found.query })}</div>
  return (
    <div class="rows" id="rows" tabIndex={0} role="group" aria-label={t("search")}>
      {found.people.length > 0 && <div class="sec">{t("people")}</div>}
      {found.people.map(({ user, chat }) => (
        <button type="button" class="row" key={user.id} onClick={() => open(chat)}>
          <Face user={user} name={ui.nameOf(user)} />
          <div class="mid">
            <b>
              <bdi>{ui.nameOf(user)}</bdi>
            </b>
            <p class="num">{t("customerId", { number: user.id })}</p>
          </div>
        </button>
      ))}
      {found.messages.length > 0 && <div class="sec">{t("messages")}</div>}
      {found.messages.map(message => (
        <FoundMessage key={message.id} message={message} now={now} open={open} />
      ))}
    </div>
  )
}

function FoundMessage({ message, now, open }: { message: Message; now: number; open: (uuid: string) => void }) {
  const ui = useContext(ConsoleContext)
  const { chat, text, send_time } = message
  return (
    <button type="button" class="row" aria-current={ui.selected === chat.uuid} onClick={() => open(chat.uuid)}>
      <Face user={chat.owner_user} name={ui.nameOf(chat.owner_user)} />
      <div class="mid">
        <b>
          <bdi>{ui.nameOf(chat.owner_user)}</bdi>
        </b>
        <p>{line(text)}</p>
      </div>
      <div class="end">
        <span class="t num">{shortTime(ui.t, send_time, now)}</span>
      </div>
    </button>
  )
}

function Empty() {
  const { t, tab } = useContext(ConsoleContext)
  const texts = { new: "nobodyWaits", mine: "noneMine", all: "noneOpen", closed: "noneClosed" } as const
  return (
    <div class="rows empty" id="rows">
      {t(texts[tab])}
    </div>
  )
}

function Ghosts() {
  const { t } = useContext(ConsoleContext)
  return (
    <div class="rows ghosts" id="rows" role="status" aria-label={t("loading")}>
      <i />
      <i />
      <i />
    </div>
  )
}

function Team({ waiting, now }: { waiting: string; now: number }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const online = desk.operators.filter(operator => operator.is_online)
  const away = desk.operators.filter(operator => operator.away)
  return (
    <div class="team">
      <span class="f" aria-hidden="true">
        {online.slice(0, 3).map(({ user }) => (
          <Face key={user.id} user={user} name={ui.operatorName(user)} size="s" />
        ))}
      </span>
      <span>
        <b>{t("teamOnline", { count: online.length })}</b>
        {away.length > 0 && `, ${t("teamAway", { count: away.length })}`}
        {now - Date.parse(waiting) >= 60_000 && ` · ${t("longestWait", { time: ago(t, waiting, now) })}`}
      </span>
    </div>
  )
}
