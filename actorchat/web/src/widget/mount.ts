import { legible } from "./colors.ts"
import type { PanelControl, PanelModule, Settings, Shell, WidgetEvent } from "./contract.ts"

declare const PANEL: string

export const ICONS = {
  chat: "M14 4.5c5.8 0 10.2 3.9 10.2 8.9S19.8 22.3 14 22.3c-1.3 0-2.6-.2-3.7-.6L5 23.6l1.5-4.3c-1.7-1.6-2.7-3.6-2.7-5.9 0-5 4.4-8.9 10.2-8.9ZM9.5 11.8h9M9.5 15.4h5.5",
  down: "m7.5 11.5 6.5 6.5 6.5-6.5",
}

/** One chat on the page: in the corner, or in an element of the page. */
export interface Widget {
  settings: Settings
  launcher: HTMLButtonElement
  /** null until it is loaded. */
  panel: PanelControl | null
  load: () => Promise<PanelControl>
  /** Shows what has changed in `settings`. */
  update: () => void
}

/** Makes the launcher and the place of the panel in `host`; inline, the panel is always open there, without a launcher. */
export function mount(
  host: HTMLElement,
  settings: Settings,
  inline: boolean,
  sheet: CSSStyleSheet,
  emit: (event: WidgetEvent, value?: unknown) => void,
): Widget {
  // An element that comes back to the page still has its root.
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" })
  root.replaceChildren()
  root.adoptedStyleSheets = [sheet]

  const make = (tag: string, name: string, parent: Node): HTMLElement => {
    const element = document.createElement(tag)
    element.className = name
    parent.appendChild(element)
    return element
  }
  const frame = make("div", inline ? "w inline" : "w", root)
  const place = make("div", "place", frame)
  const launcher = make("button", "fab", frame) as HTMLButtonElement
  launcher.type = "button"
  launcher.setAttribute("aria-expanded", "false")
  launcher.setAttribute("aria-label", settings.label || "Chat")
  for (const [name, d] of Object.entries(ICONS)) {
    const [svg, path] = (["svg", "path"] as string[]).map(tag => document.createElementNS("http://www.w3.org/2000/svg", tag)) as [SVGElement, SVGElement]
    svg.setAttribute("viewBox", "0 0 28 28")
    svg.setAttribute("class", name)
    path.setAttribute("d", d)
    svg.append(path)
    launcher.append(svg)
  }
  const name = make("span", "", launcher)

  const set = (name: string, value: string): void => host.style.setProperty(`--${name}`, value)
  const accent = (color: string): void => set("accent", legible(color))
  const update = (): void => {
    const { offset, z, theme, side, dir, label } = settings
    accent(settings.accent)
    const [x = "20", y = x] = offset.split(/[\s,]+/)
    set("x", `${parseInt(x) || 0}px`)
    set("y", `${parseInt(y) || 0}px`)
    if (z) set("actorchat-z", z)
    host.dataset["theme"] = theme
    frame.classList.toggle("left", side === "left")
    frame.dir = dir || document.documentElement.dir || "ltr"
    launcher.hidden = inline || settings.launcher === "none"
    launcher.classList.toggle("named", !!label)
    name.textContent = label
    widget.panel?.update()
  }

  const shell: Shell = { host, root, place, launcher, settings, inline, accent, emit }
  let loading: Promise<PanelControl> | null = null
  const widget: Widget = {
    settings,
    launcher,
    panel: null,
    load: () =>
      (loading ??= loadPanel(settings.server).then(
        async panel => {
          widget.panel = await panel.start(shell)
          emit("ready")
          return widget.panel
        },
        error => {
          loading = null
          console.error(`actorchat: ${settings.server} can't be reached, or script-src forbids it`, error)
          throw error
        },
      )),
    update,
  }
  update()
  return widget
}

async function loadPanel(server: string): Promise<PanelModule> {
  const base = `${server}/web/`
  try {
    return await import(base + PANEL)
  } catch {
    // The server may have a newer version than this script, which comes from the browser's cache.
    const { panel } = await (await fetch(`${base}manifest.json`, { cache: "no-store" })).json()
    // Some browsers remember that a module could not be loaded; its address with another fragment is new to them.
    return import(`${base}${panel}#${Date.now()}`)
  }
}
