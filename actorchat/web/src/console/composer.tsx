import { useContext, useLayoutEffect, useRef, useState } from "preact/hooks"
import type { Room, SavedReply } from "../sdk/desk-types.ts"
import { clean } from "../ui/clean.ts"
import { addFiles, AttachButton, Chips, fitHeight } from "../ui/composer.tsx"
import { ConsoleContext } from "./context.ts"
import { Icon } from "./icons.tsx"
import type { Mode } from "./state.ts"

/** The field for replies and notes. Notes are amber, so that nobody takes one for the other. */
export function Composer({ room, name }: { room: Room; name: string }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const { uuid, status, chat } = room
  const writing = ui.writing(uuid)
  const field = useRef<HTMLTextAreaElement>(null)
  const [chosen, setChosen] = useState(0)
  const [isPicking, setPicking] = useState(false)
  const operator = chat?.operator_user
  const isOthers = status !== "closed" && !!operator && operator.id !== desk.me?.user.id
  // Keys may come faster than drawings: handlers must not use what was drawn last.
  const current = (): Mode => (isOthers ? "note" : writing.mode)
  const canSend = (): boolean => !!writing[current()].text.trim() || writing[current()].files.length > 0
  const mode = current()
  const draft = writing[mode]
  const { text } = draft

  /** Keys may come before the next drawing, so the field must not show what was sent, or the text of the other tab. */
  const show = (): void => {
    if (field.current) field.current.value = writing[current()].text
  }
  const write = (value: string): void => {
    writing[current()].text = value
    if (current() === "reply") room.setTyping(value.startsWith("/") ? "" : value)
    ui.written(uuid)
  }
  const choose = (next: Mode): void => {
    writing.mode = next
    ui.written(uuid)
    show()
    field.current?.focus()
  }
  const send = (): void => {
    if (!canSend()) return
    writing.mode = current()
    ui.send(uuid)
    show()
    field.current?.focus()
  }
  const attach = (files: Iterable<File>): void => {
    addFiles(writing[current()], files, { t, limits: ui.limits(chat) })
    ui.written(uuid)
  }

  const repliesTo = (searched: string | undefined): SavedReply[] =>
    searched === undefined ? [] : repliesFor(ui.replies, searched, chat?.widget.source ?? "").slice(0, 8)
  const searched = mode === "reply" ? (isPicking ? "" : searchOf(text)) : undefined
  const fitting = repliesTo(searched)
  const use = (reply: SavedReply): void => {
    if (!isPicking) writing.reply.text = ""
    ui.useReply(reply)
    show()
    setPicking(false)
    setChosen(0)
    field.current?.focus()
  }
  useLayoutEffect(() => fitHeight(field))

  return (
    <form
      class="comp"
      onSubmit={event => {
        event.preventDefault()
        send()
      }}
      onDragOver={event => event.dataTransfer?.types.includes("Files") && event.preventDefault()}
      onDrop={event => {
        const files = event.dataTransfer?.files
        if (!files?.length) return
        event.preventDefault()
        attach(files)
      }}
    >
      {isOthers && <p class="why">{t("othersChat", { name: ui.operatorName(operator) })}</p>}
      {draft.notice && (
        <p class="why danger" role="alert">
          {draft.notice}
        </p>
      )}
      {searched !== undefined && fitting.length === 0 && (
        <p class="picker" role="status">
          {t("noReplies")}
        </p>
      )}
      {fitting.length > 0 && (
        <div class="picker" role="listbox" id="replies" aria-label={t("savedReplies")}>
          {fitting.map((reply, index) => (
            <div
              key={reply.id}
              id={`reply-${index}`}
              role="option"
              aria-selected={index === chosen}
              onPointerDown={event => event.preventDefault()}
              onClick={() => use(reply)}
            >
              <b>
                <bdi>{clean(reply.title)}</bdi>
                {reply.shortcut && <kbd>/{clean(reply.shortcut)}</kbd>}
              </b>
              <span>{clean(reply.text)}</span>
            </div>
          ))}
        </div>
      )}
      <div class={`box ${mode}`}>
        <div class="mode" role="tablist" aria-label={t("whatToWrite")}>
          {!isOthers && (
            <button type="button" role="tab" aria-selected={mode === "reply"} onClick={() => choose("reply")}>
              {t("reply")}
            </button>
          )}
          <button type="button" role="tab" aria-selected={mode === "note"} onClick={() => choose("note")}>
            <Icon name="lock" size={14} />
            {t("note")}
          </button>
        </div>
        <Chips draft={draft} changed={() => ui.written(uuid)} />
        <textarea
          ref={field}
          id="composer"
          rows={2}
          dir="auto"
          aria-label={t(mode === "note" ? "noteOn" : "replyTo", { name })}
          aria-controls={fitting.length ? "replies" : undefined}
          aria-activedescendant={fitting.length ? `reply-${chosen}` : undefined}
          placeholder={t(mode === "note" ? "writeNote" : "writeReply")}
          value={text}
          onInput={event => {
            setPicking(false)
            setChosen(0)
            write(event.currentTarget.value)
          }}
          onKeyDown={event => {
            // Enter also ends the composition of a character, which must not send.
            if (event.isComposing || event.keyCode === 229) return
            const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
            // What was drawn last may be another choice than that of the text of now, which begins with the first one.
            const now = writing[current()].text
            const [found, place] = now === text ? [fitting, chosen] : [repliesTo(searchOf(now)), 0]
            const reply = current() === "reply" ? found[place] : undefined
            if (reply && step && !event.altKey) {
              event.preventDefault()
              setChosen((place + step + found.length) % found.length)
            } else if (reply && (event.key === "Enter" || event.key === "Tab")) {
              event.preventDefault()
              use(reply)
            } else if (searched !== undefined && event.key === "Escape") {
              event.stopPropagation()
              setPicking(false)
              if (!isPicking) write("")
              show()
            } else if (event.key === "ArrowUp" && !event.altKey && !now) {
              const last = ui.lastOwn
              if (last) ui.change(last)
            } else if (event.key === "Enter" && !event.shiftKey && !matchMedia("(pointer: coarse)").matches) {
              event.preventDefault()
              send()
            }
          }}
          onPaste={event => {
            const files = event.clipboardData?.files
            if (!files?.length) return
            event.preventDefault()
            attach(files)
          }}
        />
        <div class="bar">
          <AttachButton add={attach} />
          {mode === "reply" && (
            <button
              type="button"
              class="ib"
              aria-label={t("savedReplies")}
              aria-expanded={searched !== undefined}
              onClick={() => {
                setPicking(!isPicking)
                field.current?.focus()
              }}
            >
              <Icon name="slash" />
            </button>
          )}
          <span class="hint wide">
            {mode === "reply" && status === "new" && !room.isMine
              ? t("acceptsToo")
              : mode === "reply" && status === "closed"
                ? t("reopensToo")
                : t("enterSends")}
          </span>
          <button class={`btn p${mode === "note" ? " amber" : ""}`} disabled={!canSend()}>
            {t(mode === "note" ? "addNote" : "send")}
          </button>
        </div>
      </div>
    </form>
  )
}

/** What saved replies are searched for, if the text searches for one. */
function searchOf(text: string): string | undefined {
  return /^\/(\S*)$/.exec(text)?.[1]
}

/** The saved replies for a source whose shortcut begins with the text, then those whose title has it. */
function repliesFor(replies: readonly SavedReply[], text: string, source: string): SavedReply[] {
  const wanted = text.toLowerCase()
  const fitting = replies.filter(reply => reply.source === null || reply.source === source)
  const byShortcut = fitting.filter(({ shortcut }) => shortcut.toLowerCase().startsWith(wanted) && (shortcut || !wanted))
  const byTitle = fitting.filter(reply => !byShortcut.includes(reply) && reply.title.toLowerCase().includes(wanted))
  return [...byShortcut, ...byTitle]
}
