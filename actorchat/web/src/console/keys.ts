import type { Tab } from "./chat-lists.ts"
import { type Console, isMenu } from "./state.ts"

/** Milliseconds within which a letter belongs to the `g` before it. */
const GO_WITHIN = 1_500
const TABS: Record<string, Tab> = { n: "new", m: "mine", a: "all", c: "closed" }

/** Handles the console's keys. Single letters count outside of text fields only. */
export class Keys {
  #ui: Console
  #draw: () => void
  /** When `g` was pressed. Times count from the page's start. */
  #going = -Infinity

  /** `draw` draws the console at once. */
  constructor(ui: Console, draw: () => void) {
    this.#ui = ui
    this.#draw = draw
  }

  press(event: KeyboardEvent): void {
    const ui = this.#ui
    if (event.isComposing || event.defaultPrevented) return
    const key = keyOf(event)
    if (key === "k" && (isApple() ? event.metaKey : event.ctrlKey) && !event.altKey && !event.shiftKey) {
      event.preventDefault()
      const shown = document.querySelector("dialog")
      if (ui.dialog === "palette" && (!shown || shown.open)) ui.openDialog(null)
      else if (!shown?.open) {
        if (shown) {
          // The browser has closed it, and will say so later.
          ui.openDialog(null)
          this.#draw()
        }
        this.#openPalette()
      }
      return
    }
    if (event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return
    // A dialog that is still being loaded: keys for it must not do anything else.
    if (ui.dialog && !isMenu(ui.dialog) && key !== "Escape") return
    const target = event.target as HTMLElement
    const menu = target.closest<HTMLElement>(".menu")
    if (menu) return this.#menu(event, key, menu)
    const isField = target.matches("input, textarea, select")
    if (key === "Escape") {
      if (ui.dialog) ui.openDialog(null)
      else if (isField) target.blur()
      else if (ui.isCardOpen && !matchMedia("(min-width: 1201px)").matches) ui.toggleCard(false)
      else if (ui.selected) ui.select("")
      return
    }
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[key]
    if (event.altKey) {
      if (!step || key.length === 1) return
      event.preventDefault()
      move(ui, step)
      if (ui.cursor) ui.select(ui.cursor)
      if (isField) focusSoon("composer")
      return
    }
    if (isField || (key.length === 1 && !ui.settings.letters)) return
    if (key.length > 1 || step) this.#list(event, key, step)
    else if (!event.repeat) this.#letter(event, key)
  }

  /** What is typed right after the key belongs to the palette, whether it is drawn, or even loaded, yet or not. */
  #openPalette(): void {
    this.#ui.openDialog("palette")
    if (this.#ui.pages) this.#draw()
    else (document.activeElement as HTMLElement | null)?.blur()
  }

  #menu(event: KeyboardEvent, key: string, menu: HTMLElement): void {
    const items = [...menu.querySelectorAll<HTMLElement>("[role=menuitem]")]
    const step = { ArrowDown: 1, ArrowUp: -1 }[key]
    if (step) {
      event.preventDefault()
      items[(items.indexOf(event.target as HTMLElement) + step + items.length) % items.length]?.focus()
    } else if (key === "Escape") {
      focusOpener(menu)
      this.#ui.openDialog(null)
    }
  }

  #list(event: KeyboardEvent, key: string, step: number | undefined): void {
    const ui = this.#ui
    const target = event.target as HTMLElement
    if (ui.section !== "chats") return
    if (step && (key.length === 1 || target.matches("body, .rows"))) {
      event.preventDefault()
      move(ui, step)
    } else if (key === "Enter" && !target.matches("button, a, [role=tab]") && ui.cursor) {
      event.preventDefault()
      ui.select(ui.cursor)
      focusSoon("composer")
    }
  }

  #letter(event: KeyboardEvent, key: string): void {
    const ui = this.#ui
    const tab = event.timeStamp - this.#going < GO_WITHIN ? TABS[key] : undefined
    this.#going = key === "g" ? event.timeStamp : -Infinity
    if (tab) {
      event.preventDefault()
      ui.goTo(tab)
    } else if (key === "?") ui.openDialog("help")
    else if (ui.section !== "chats") return
    else if (key === "/") {
      event.preventDefault()
      document.getElementById("search")?.focus()
    } else if (ui.room) act(ui, event, key)
  }
}

function act(ui: Console, event: KeyboardEvent, key: string): void {
  const { desk, room } = ui
  const { canAccept, canGive } = ui.can
  if (key === "a" && canAccept) void ui.accept()
  else if (key === "t" && canGive) ui.openDialog("transfer")
  else if (key === "e" && canGive) void ui.act(() => desk.close(room?.uuid ?? ""))
  else if (key === "r" || key === "n") {
    event.preventDefault()
    ui.write(key === "r" ? "reply" : "note")
  }
}

/** The key; of other alphabets the letter that stands at its place. */
function keyOf({ key, code }: KeyboardEvent): string {
  return key.length === 1 && key > "\x7f" && code.startsWith("Key") ? code.slice(3).toLowerCase() : key
}

/** Whether the keyboard has the key ⌘. */
export function isApple(): boolean {
  return /Mac|iP/.test(navigator.platform)
}

function move(ui: Console, step: number): void {
  const { lists, tab, cursor } = ui
  const size = lists.size(tab)
  const at = lists.indexOf(tab, cursor)
  const first = at >= 0 ? at + step : step > 0 ? 0 : size - 1
  for (let index = first; index >= 0 && index < size; index += step) {
    const item = lists.at(tab, index)
    if (item?.kind !== "chat") continue
    ui.cursor = item.key
    break
  }
  ui.changed()
}

/** Moves the focus from a menu to its button, so that it is not lost with the menu. */
export function focusOpener(within: Element): void {
  within.closest(".hold")?.querySelector("button")?.focus()
}

/** After the next drawing, which may bring the element. */
export function focusSoon(id: string): void {
  setTimeout(() => document.getElementById(id)?.focus(), 50)
}
