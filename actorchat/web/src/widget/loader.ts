/** The one script of a site: shows the launcher, and the chat in elements of the page. It loads the panel when it is needed. */
import type { PanelControl, Settings, WidgetEvent } from "./contract.ts"
import css from "./loader.css"
import { mount, type Widget } from "./mount.ts"

type Handler = (value?: unknown) => void

interface Api {
  open: () => void
  close: () => void
  toggle: () => void
  send: (text: string) => void
  identify: (token: string) => void
  signOut: () => void
  set: (settings: Partial<Settings>) => void
  on: (event: WidgetEvent, handler: Handler) => () => void
  destroy: () => void
}

type Command = (api: Api) => void

/** What `window.actorchat` is once the script has run. */
interface Queue {
  api: Api
  /** An element of the page was added, changed or removed. */
  changed: (element: HTMLElement) => void
}

const RETRY = 10_000
const ELEMENT = "actorchat-widget"
const w = window as unknown as { actorchat?: Command[] & Partial<Queue> }
const script = document.currentScript as HTMLScriptElement | null

function start(): void {
  const data: Partial<Settings> & { mode?: string } = { ...script?.dataset }
  const settings: Settings = {
    source: "lk",
    accent: "",
    theme: "auto",
    side: "right",
    offset: "20",
    lang: "",
    launcher: "",
    label: "",
    open: "",
    z: "",
    dir: "",
    ...data,
    server: (data.server || new URL(".", script?.src || location.href).href).replace(/\/$/, ""),
  }
  const handlers: Partial<Record<WidgetEvent, Set<Handler>>> = {}
  const widgets = new Map<HTMLElement, Widget>()
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(css)

  /** The page's calls before there is a widget. */
  let waiting: ((widget: Widget) => void)[] = []
  const first = (): Widget | undefined => widgets.values().next().value
  const withPanel = (f: (panel: PanelControl) => void): void => {
    const call = (widget: Widget): void => void widget.load().then(f, () => {})
    const widget = first()
    if (widget) call(widget)
    else waiting.push(call)
  }
  const add = (host: HTMLElement, own: Settings, inline: boolean): Widget => {
    const widget = mount(host, own, inline, sheet, (event, value) => {
      // Several widgets of a page show the same messages.
      if (first() === widget) handlers[event]?.forEach(handler => handler(value))
    })
    widgets.set(host, widget)
    waiting.forEach(call => call(widget))
    waiting = []
    return widget
  }

  const api: Api = {
    open: () => withPanel(panel => panel.open()),
    close: () => first()?.panel?.close(),
    toggle: () => (first()?.panel?.isOpen() ? api.close() : api.open()),
    send: text => withPanel(panel => panel.send(text)),
    identify: token => withPanel(panel => panel.identify(token)),
    signOut: () => withPanel(panel => panel.signOut()),
    set(changed) {
      Object.assign(settings, changed)
      for (const widget of widgets.values()) {
        Object.assign(widget.settings, changed)
        widget.update()
      }
    },
    on(event, handler) {
      const set = (handlers[event] ??= new Set())
      set.add(handler)
      if (event === "ready" && first()?.panel) handler()
      return () => set.delete(handler)
    },
    destroy() {
      observer.disconnect()
      for (const element of widgets.keys()) remove(element)
      corner.remove()
      delete w.actorchat
    },
  }

  const remove = (element: HTMLElement): void => {
    widgets.get(element)?.panel?.destroy()
    widgets.delete(element)
    element.shadowRoot?.replaceChildren()
  }
  const changed = (element: HTMLElement): void => {
    if (!element.isConnected) return remove(element)
    const own = widgets.get(element)?.settings ?? { ...settings }
    for (const name of Object.keys(own) as (keyof Settings)[]) own[name] = element.getAttribute(name) ?? own[name]
    const widget = widgets.get(element) ?? add(element, own, true)
    widget.update()
    widget.load().catch(() => setTimeout(() => changed(element), RETRY))
  }

  // Beside the body: frameworks that replace the body leave it alone. Those that replace more are answered here.
  const corner = document.createElement("actorchat-host")
  corner.setAttribute("data-turbo-permanent", "")
  corner.id = "actorchat-host"
  const attach = (): void => {
    if (!corner.isConnected) document.documentElement.append(corner)
  }
  const observer = new MutationObserver(attach)
  if (data.mode !== "inline") {
    const { launcher, load } = add(corner, settings, false)
    launcher.onclick = api.toggle
    launcher.onpointerenter = launcher.onfocus = () => void load().catch(() => {})
    observer.observe(document.documentElement, { childList: true })
    attach()

    let known = settings.open === "true"
    try {
      known ||= !!localStorage.getItem(`actorchat.${settings.server}.${settings.source}.visit`)
      known ||= !!sessionStorage.getItem("actorchat.open")
    } catch {
      // Blocked storage: this visitor is new.
    }
    if (known) (window.requestIdleCallback ?? setTimeout)(() => void load().catch(() => {}))
  }

  const calls = w.actorchat ?? []
  w.actorchat = Object.assign([] as Command[], { api, changed, push: (...commands: Command[]) => (commands.forEach(f => f(api)), 0) })
  calls.forEach(f => f(api))

  if (customElements.get(ELEMENT)) return
  customElements.define(
    ELEMENT,
    class extends HTMLElement {
      static observedAttributes = ["accent", "theme", "lang", "dir"]
      connectedCallback(): void {
        w.actorchat?.changed?.(this)
      }
      attributeChangedCallback(): void {
        this.connectedCallback()
      }
      disconnectedCallback(): void {
        // An element that is only moved is connected again by then.
        setTimeout(() => this.connectedCallback())
      }
    },
  )
}

// A second run of the tag does nothing.
if (!w.actorchat?.api) start()
