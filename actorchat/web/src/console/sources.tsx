import type { ComponentChildren } from "preact"
import { useContext, useEffect, useMemo, useRef, useState } from "preact/hooks"
import type { WidgetConfig, WidgetInfo } from "../sdk/desk-types.ts"
import { AdminContext } from "./admin/context.ts"
import { Preview } from "./admin/preview.tsx"
import { ConsoleContext } from "./context.ts"

/** The widget's own colour, which it has if none is set. */
const ACCENT = "#0b6e7f"

/** The page with the sources: the texts of each widget with a preview, and the tag for the source's pages. */
export function Sources({ menu }: { menu: ComponentChildren }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const isAdmin = desk.me?.rights === "admin"
  useEffect(() => void ui.readWidgets(), [])
  return (
    <section class="page" aria-labelledby="page-title">
      {menu}
      <h2 id="page-title">{t("sourcesTitle")}</h2>
      <p class="lead">{t("sourcesLead")}</p>
      {!isAdmin && <p class="lead">{t("onlyAdmins")}</p>}
      {ui.notice && (
        <p class="error" role="alert">
          {ui.notice}
        </p>
      )}
      {[...ui.widgets.values()].map(widget => (
        <SourceForm key={widget.source} widget={widget} isAdmin={isAdmin} />
      ))}
      <p class="lead">{t("addSource")}</p>
    </section>
  )
}

function SourceForm({ widget, isAdmin }: { widget: WidgetInfo; isAdmin: boolean }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const admin = useContext(AdminContext)
  const { source, config } = widget
  const [said, setSaid] = useState("")
  /** What is in the form, null before it was changed. */
  const [draft, setDraft] = useState<WidgetConfig | null>(null)
  const shown = draft ?? config
  const accent = useRef<HTMLInputElement>(null)
  const code = useRef<HTMLElement>(null)
  const tag = `<script async src="${ui.server}/widget.js" data-source="${source}"></script>`
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(tag)
      setSaid(t("copied"))
    } catch {
      // Plain http pages of other hosts may not write to the clipboard.
      if (code.current) getSelection()?.selectAllChildren(code.current)
      setSaid(t("selected"))
    }
  }
  const save = async (form: HTMLFormElement): Promise<void> => {
    setSaid("")
    const done = await ui.act(async () => {
      ui.widgets.set(source, await desk.setWidget(source, configOf(form)))
    })
    if (done) setSaid(t("saved"))
  }
  return (
    <article class="source">
      <div>
        <h3>{source}</h3>
        <p class="label">{t("theTag")}</p>
        <div class="code">
          <code ref={code}>{tag}</code>
          <button type="button" class="btn" onClick={() => void copy()}>
            {t("copy")}
          </button>
        </div>
        {isAdmin && (
          <form
            class="form two"
            onInput={event => setDraft(configOf(event.currentTarget))}
            onSubmit={event => {
              event.preventDefault()
              void save(event.currentTarget)
            }}
          >
            <label>
              {t("widgetTitle")}
              <input name="title" maxLength={80} defaultValue={config.title} />
            </label>
            <label>
              {t("accent")}
              <span class="color">
                <input name="accent" ref={accent} pattern="#[0-9a-fA-F]{6}" defaultValue={config.accent} placeholder={ACCENT} />
                <input
                  type="color"
                  aria-label={admin.t("pickColor")}
                  value={/^#[\da-f]{6}$/i.test(shown.accent) ? shown.accent.toLowerCase() : ACCENT}
                  onInput={event => {
                    if (accent.current) accent.current.value = event.currentTarget.value
                  }}
                />
              </span>
            </label>
            <label class="span">
              {t("greeting")}
              <textarea name="greeting" rows={2} maxLength={500} defaultValue={config.greeting} />
            </label>
            <label class="span">
              {t("questions")}
              <textarea name="questions" rows={3} defaultValue={config.questions.join("\n")} />
            </label>
            <label>
              {t("privacyUrl")}
              <input name="privacy_url" type="url" maxLength={2000} defaultValue={config.privacy_url} />
            </label>
            <label>
              {t("languages")}
              <input name="languages" defaultValue={config.languages.join(", ")} placeholder="en, ru" />
            </label>
            <label>
              {t("answerMinutes")}
              <input name="answer" type="number" min="1" max="43200" defaultValue={config.answer_seconds ? String(config.answer_seconds / 60) : ""} />
            </label>
            <span class="actions span">
              <button class="btn p">{t("save")}</button>
              <span role="status">{said}</span>
            </span>
          </form>
        )}
        {!isAdmin && <span role="status">{said}</span>}
      </div>
      {isAdmin && <PreviewFigure widget={widget} config={shown} />}
    </article>
  )
}

function configOf(form: HTMLFormElement): WidgetConfig {
  const data = new FormData(form)
  const text = (name: string): string => String(data.get(name) ?? "").trim()
  const list = (name: string, separator: RegExp): string[] => text(name).split(separator).map(part => part.trim()).filter(Boolean)
  return {
    title: text("title"),
    greeting: text("greeting"),
    questions: list("questions", /\n/),
    accent: text("accent"),
    privacy_url: text("privacy_url"),
    languages: list("languages", /[,\s]/),
    answer_seconds: text("answer") ? Math.round(Number(text("answer")) * 60) : null,
  }
}

/** The widget with what is in the form, light or dark. */
function PreviewFigure({ widget, config }: { widget: WidgetInfo; config: WidgetConfig }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  const [theme, setTheme] = useState<"light" | "dark">(
    ui.settings.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"),
  )
  const info = useMemo(() => ({ ...widget, config }), [widget, config])
  return (
    <figure class="preview">
      <figcaption>
        <b>{t("preview")}</b>
        {(["light", "dark"] as const).map(each => (
          <button key={each} type="button" class="btn" aria-pressed={theme === each} onClick={() => setTheme(each)}>
            {t(each === "dark" ? "themeDark" : "themeLight")}
          </button>
        ))}
        <p class="small">{t("previewLead")}</p>
      </figcaption>
      <Preview info={info} theme={theme} />
    </figure>
  )
}
