/** A source's widget as its visitors see it before they have written, drawn by the widget's own code, without a connection. */
import { render } from "preact"
import { useContext, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks"
import type { WidgetInfo } from "../../sdk/desk-types.ts"
import type { BrowserChat } from "../../sdk/types.ts"
import { clean } from "../../ui/clean.ts"
import { Composer } from "../../ui/composer.tsx"
import { UiContext } from "../../ui/context.ts"
import { loadTexts, type Texts } from "../../ui/i18n.ts"
import { legible } from "../../widget/colors.ts"
import { wantedLanguages } from "../../widget/config.ts"
import { Foot, Header, Start } from "../../widget/conversation.tsx"
import loader from "../../widget/loader.css"
import { ICONS } from "../../widget/mount.ts"
import widget from "../../widget/widget.css"
import { ConsoleContext } from "../context.ts"
import css from "./preview.css"

/** What the start of a chat reads of it. */
const IDLE: Pick<BrowserChat, "state" | "status" | "chat" | "messages" | "people"> = {
  state: "idle",
  status: null,
  chat: null,
  messages: [],
  people: [],
}

/** A tag that the server accepts; others are on their way to become one. */
const TAG = /^[a-z]{2,8}(-[a-z0-9]{1,8}){0,4}$/i

export function Preview({ info, theme }: { info: WidgetInfo; theme: string }) {
  const { t: own, server } = useContext(ConsoleContext)
  const host = useRef<HTMLDivElement>(null)
  const [t, setTexts] = useState<Texts | null>(null)
  const offered = info.config.languages.filter(tag => TAG.test(tag))

  useLayoutEffect(() => {
    const root = host.current?.attachShadow({ mode: "open" })
    if (!root) return
    root.adoptedStyleSheets = [loader, widget, css].map(text => {
      const sheet = new CSSStyleSheet()
      sheet.replaceSync(text)
      return sheet
    })
    return () => render(null, root)
  }, [])

  useEffect(() => {
    let isNewest = true
    void loadTexts(wantedLanguages("", [own.lang], offered)).then(loaded => {
      // Texts are a function, which is not the one that makes the next state.
      if (isNewest) setTexts(() => loaded)
    })
    return () => {
      isNewest = false
    }
  }, [own.lang, offered.join()])

  useEffect(() => {
    const element = host.current
    if (!element?.shadowRoot || !t) return
    element.style.setProperty("--accent", legible(info.config.accent))
    render(<Widget info={info} t={t} server={server} />, element.shadowRoot)
  }, [info, t])

  return <div class="stage" ref={host} data-theme={theme} inert />
}

function Widget({ info, t, server }: { info: WidgetInfo; t: Texts; server: string }) {
  const { config } = info
  // Nothing in it can be pressed.
  const none = (): void => {}
  return (
    <UiContext.Provider value={{ chat: IDLE as BrowserChat, t, server, limits: null, showImage: none }}>
      <div class="w" lang={t.lang}>
        <div class="place">
          <section class="panel start">
            <Header title={clean(config.title)} menu={false} setMenu={none} toggleSound={none} close={none} />
            <Start info={info} />
            <Composer
              draft={{ text: "", files: [], notice: "" }}
              changed={none}
              field={{ current: null }}
              foot={<Foot privacy={config.privacy_url} />}
            />
          </section>
        </div>
        <button type="button" class="fab" aria-label={t("chat")} aria-expanded="true">
          <svg viewBox="0 0 28 28" class="down">
            <path d={ICONS.down} />
          </svg>
        </button>
      </div>
    </UiContext.Provider>
  )
}
