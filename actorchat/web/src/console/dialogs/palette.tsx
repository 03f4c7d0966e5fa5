import { useContext, useLayoutEffect, useRef, useState } from "preact/hooks"
import type { ChatSummary } from "../../sdk/desk-types.ts"
import { clean } from "../../ui/clean.ts"
import { AdminContext } from "../admin/context.ts"
import { ConsoleContext } from "../context.ts"
import { Icon } from "../icons.tsx"
import { focusSoon } from "../keys.ts"
import { line } from "../people.tsx"
import { chatCommands, type Command, otherCommands } from "./commands.ts"
import { Keys } from "./keys.tsx"
import { ranked } from "./rank.ts"

/** So many chats are offered without a query, and with one. */
const FEW = 5
const MOST = 8

interface Item extends Command {
  /** More about it. */
  hint?: string
}

interface Group {
  name: string
  items: Item[]
}

/** Finds commands and chats by a few letters. The focus stays in the field; arrow keys choose. */
export function Palette() {
  const ui = useContext(ConsoleContext)
  const admin = useContext(AdminContext)
  const { t } = admin
  const [query, setQuery] = useState("")
  const [chosen, setChosen] = useState(0)
  const dialog = useRef<HTMLDialogElement>(null)
  useLayoutEffect(() => {
    const shown = dialog.current
    shown?.showModal()
    return () => shown?.close()
  }, [])
  const groupsOf = (wanted: string): Group[] => {
    const fitting = (commands: Command[]): Command[] => ranked(commands, ({ text }) => text, wanted)
    return [
      { name: t("thisChat"), items: fitting(chatCommands(ui, admin)) },
      { name: ui.t("chats"), items: chats(wanted) },
      { name: t("everywhere"), items: [...fitting(otherCommands(ui, admin)), ...search(wanted)] },
    ].filter(({ items }) => items.length)
  }
  const chats = (wanted: string): Item[] => {
    const known = ui.desk.chats.filter(({ chat }) => chat.uuid !== ui.room?.uuid)
    const open = known.filter(({ chat }) => chat.status !== "closed")
    const due = open
      .filter(({ chat, waiting_since }) => waiting_since && (!chat.operator_user || ui.isMine(chat.operator_user)))
      .sort((a, b) => ((a.waiting_since ?? "") < (b.waiting_since ?? "") ? -1 : 1))
    const found = wanted.trim() ? ranked([...open, ...known.filter(({ chat }) => chat.status === "closed")], searchable, wanted).slice(0, MOST) : due.slice(0, FEW)
    return found.map(({ chat, last }) => ({
      id: `chat-${chat.uuid}`,
      text: ui.nameOf(chat.owner_user),
      hint: line(last?.text ?? ""),
      run: () => {
        ui.select(chat.uuid)
        focusSoon("composer")
      },
    }))
  }
  const searchable = ({ chat, tags }: ChatSummary): string =>
    [ui.nameOf(chat.owner_user), chat.owner_user.id, chat.widget.source, ...tags].join(" ")
  const search = (wanted: string): Item[] =>
    wanted.trim()
      ? [
          {
            id: "search-for",
            text: t("searchFor", { query: wanted.trim() }),
            run: () => {
              // On phones the chat covers the list.
              if (matchMedia("(max-width: 640px)").matches) ui.select("")
              ui.show("chats")
              ui.search(wanted)
              focusSoon("search")
            },
          },
        ]
      : []
  const groups = groupsOf(query)
  const items = groups.flatMap(group => group.items)
  const current = items[chosen]
  const run = (item: Item | undefined): void => {
    if (!item) return
    // Gives the focus back before the command moves it.
    dialog.current?.close()
    ui.openDialog(null)
    item.run()
  }
  return (
    <dialog
      class="palette"
      ref={dialog}
      aria-label={t("palette")}
      // The browser tells it later. By then another dialog may be open, which must stay.
      onClose={event => event.currentTarget.isConnected && ui.dialog === "palette" && ui.openDialog(null)}
      onClick={event => event.target === dialog.current && dialog.current?.close()}
    >
      <div class="find">
        <Icon name="find" size={18} />
        <input
          role="combobox"
          aria-label={t("palette")}
          aria-autocomplete="list"
          aria-expanded={items.length > 0}
          aria-controls="palette"
          aria-activedescendant={current && `palette-${current.id}`}
          placeholder={t("paletteHint")}
          autocomplete="off"
          spellcheck={false}
          maxLength={200}
          onInput={event => {
            setQuery(event.currentTarget.value)
            setChosen(0)
          }}
          onKeyDown={event => {
            if (event.isComposing || event.keyCode === 229) return
            const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
            if (step && items.length) {
              event.preventDefault()
              setChosen((chosen + step + items.length) % items.length)
            } else if (event.key === "Enter") {
              event.preventDefault()
              // Enter may come before what was typed last is drawn.
              const now = event.currentTarget.value
              run(now === query ? current : groupsOf(now)[0]?.items[0])
            }
          }}
        />
        <Keys keys="Esc" />
      </div>
      <div role="listbox" id="palette" aria-label={t("palette")} class="found">
        {groups.map(({ name, items: group }) => (
          <div role="group" aria-label={name} key={name}>
            <div class="sec" role="presentation">
              {name}
            </div>
            {group.map(item => (
              <div
                key={item.id}
                id={`palette-${item.id}`}
                role="option"
                aria-selected={item === current}
                ref={item === current ? intoView : null}
                onPointerDown={event => event.preventDefault()}
                onClick={() => run(item)}
              >
                <bdi>{clean(item.text)}</bdi>
                {item.hint && <small>{item.hint}</small>}
                {item.keys && <Keys keys={item.keys} />}
              </div>
            ))}
          </div>
        ))}
      </div>
      <p role="status" class={items.length ? "sr" : "lead"}>
        {items.length ? "" : t("nothingMatches", { query: clean(query) })}
      </p>
    </dialog>
  )
}

function intoView(option: HTMLElement | null): void {
  option?.scrollIntoView({ block: "nearest" })
}
