import { useContext, useMemo } from "preact/hooks"
import type { Room } from "../sdk/desk-types.ts"
import { clean } from "../ui/clean.ts"
import { focusFirst } from "../ui/focus.ts"
import { Composer } from "./composer.tsx"
import { ConsoleContext } from "./context.ts"
import { Icon } from "./icons.tsx"
import { focusOpener } from "./keys.ts"
import { RoomLog } from "./log.tsx"
import { Face } from "./people.tsx"

/** One chat: who it is with, what can be done, the messages, and the field to answer. */
export function Conversation({ room }: { room: Room }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const { uuid, chat } = room
  const typing = desk.typing.get(uuid) ?? ""
  const closed = desk.summary(uuid)?.closed ?? null
  const log = useMemo(
    () => <RoomLog room={room} typing={typing} closed={closed} key={uuid} />,
    [room, room.chat, room.messages, room.pending, room.receipts, room.hasOlder, room.loaded, typing, closed, ui.t],
  )
  const name = chat ? ui.nameOf(chat.owner_user) : ""
  return (
    <section class="chat" aria-label={t("chatOf", { name })}>
      <Header room={room} name={name} />
      {ui.race && (
        <Banner text={ui.race} close={() => ((ui.race = ""), ui.changed())} />
      )}
      {ui.notice && (
        <Banner danger text={ui.notice} close={() => ((ui.notice = ""), ui.changed())} />
      )}
      {room.state === "ended" && room.reason !== "stopped" ? <div class="none">{t("notFound")}</div> : log}
      {chat && room.state !== "ended" && <Composer room={room} name={name} key={uuid} />}
    </section>
  )
}

function Banner({ text, close, danger }: { text: string; close: () => void; danger?: boolean }) {
  const { t } = useContext(ConsoleContext)
  return (
    <div class={`banner${danger ? " danger" : ""}`} role="alert">
      <span>{text}</span>
      <button type="button" class="ib" aria-label={t("dismiss")} onClick={close}>
        <Icon name="close" size={16} />
      </button>
    </div>
  )
}

function Header({ room, name }: { room: Room; name: string }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const { uuid, chat, status } = room
  const summary = desk.summary(uuid)
  const page = ui.visitors.get(uuid)?.pages[0]
  const readers = (summary?.viewers ?? []).filter(user => user.id !== desk.me?.user.id)
  const operator = chat?.operator_user
  const { canAccept, isOthers } = ui.can
  const state =
    status === "closed"
      ? t("statusClosed")
      : room.isMine && status === "open"
        ? t("yours")
        : operator && !room.isMine
          ? t("with", { name: ui.operatorName(operator) })
          : t("statusNew")
  const sub = [page && clean(page.title || page.url) && t("onPage", { page: clean(page.title || page.url) }), chat?.widget.source]
  return (
    <header>
      <button type="button" class="ib only-s" aria-label={t("backToList")} onClick={() => ui.select("")}>
        <Icon name="back" />
      </button>
      <div class="ttl">
        <h2>
          <bdi>{name}</bdi>
          {chat && <span class={`tag${room.isMine ? " open" : ""}`}>{state}</span>}
        </h2>
        <p class="sub">{sub.filter(Boolean).join(" · ")}</p>
      </div>
      {readers[0] && (
        <span class="also wide">
          <Face user={readers[0]} name={ui.operatorName(readers[0])} size="s" />
          {t("isReading", { name: readers[0].firstname || ui.operatorName(readers[0]) })}
        </span>
      )}
      {canAccept && (
        <button type="button" class="btn p" onClick={() => void ui.accept()}>
          <Icon name="check" size={18} />
          {t("accept")}
        </button>
      )}
      {isOthers && (
        <button type="button" class="btn" onClick={() => void ui.act(() => desk.transfer(uuid, desk.me?.user.id ?? 0))}>
          {t("takeOver")}
        </button>
      )}
      {status === "closed" && (
        <button type="button" class="btn" onClick={() => void ui.act(() => desk.reopen(uuid))}>
          {t("reopen")}
        </button>
      )}
      {room.isMine && (
        <>
          <button type="button" class="btn wide" onClick={() => ui.openDialog("transfer")}>
            <Icon name="move" size={18} />
            {t("transfer")}
          </button>
          {status === "open" && (
            <button type="button" class="btn" onClick={() => void ui.act(() => desk.close(uuid))}>
              <Icon name="check" size={18} />
              {t("closeChat")}
            </button>
          )}
        </>
      )}
      {chat && <More room={room} />}
      <button
        type="button"
        class={`ib${ui.isCardOpen ? " on" : ""}`}
        aria-label={t("visitorCard")}
        aria-expanded={ui.isCardOpen}
        onClick={() => ui.toggleCard()}
      >
        <Icon name="side" size={18} />
      </button>
    </header>
  )
}

function More({ room }: { room: Room }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const { uuid, isMine } = room
  const { canGive } = ui.can
  const item = (text: string, action: () => unknown) => (
    <button type="button" role="menuitem" onClick={() => void action()}>
      {text}
    </button>
  )
  return (
    <span class="hold">
      <button
        type="button"
        class="ib"
        aria-label={t("moreActions")}
        aria-haspopup="menu"
        aria-expanded={ui.dialog === "more"}
        onClick={() => ui.openDialog(ui.dialog === "more" ? null : "more")}
      >
        <Icon name="more" size={18} />
      </button>
      {ui.dialog === "more" && (
        <div class="menu" role="menu" ref={focusFirst} onClick={event => focusOpener(event.currentTarget)}>
          {canGive && item(t("transfer"), () => ui.openDialog("transfer"))}
          {isMine && item(t("giveBack"), () => ui.act(() => desk.giveBack(uuid)))}
          {canGive && item(t("closeChat"), () => ui.act(() => desk.close(uuid)))}
          {item(t("saveTranscript"), () => ui.openDialog("transcript"))}
          {ui.mayBlock && item(t("blockVisitor"), () => ui.openDialog("block"))}
        </div>
      )}
    </span>
  )
}
