import { useContext } from "preact/hooks"
import { textsOf } from "../../ui/i18n.ts"
import { ConsoleContext } from "../context.ts"
import { Replies } from "../replies.tsx"
import { SettingsPage } from "../settings-page.tsx"
import { Sources } from "../sources.tsx"
import { type Console, isAdminSection, type Section } from "../state.ts"
import { BlockDialog } from "../dialogs/block.tsx"
import { KeysDialog } from "../dialogs/keys.tsx"
import { MessageDialog } from "../dialogs/message.tsx"
import { Palette } from "../dialogs/palette.tsx"
import { TranscriptDialog } from "../dialogs/transcript.tsx"
import { TransferDialog } from "../dialogs/transfer.tsx"
import { Actors } from "./actors.tsx"
import { LaterApi } from "./api.ts"
import { Blocks } from "./blocks.tsx"
import { type Admin, AdminContext } from "./context.ts"
import { admin as en } from "./locales/admin-en.ts"
import { Metrics } from "./metrics.tsx"
import { Operators } from "./operators.tsx"
import css from "./pages.css"
import { Sampler } from "./sampler.ts"
import { Tags } from "./tags.tsx"

const TITLES = { operators: "operators", tags: "tags", blocks: "blocks", actors: "actors", metrics: "metrics" } as const
const SECTIONS = ["sources", "operators", "tags", "blocks", "actors", "metrics"] as const

/** The pages but for the chats, and the dialogs. They are loaded when the first one is shown. */
export class Pages {
  readonly #admin: Admin

  constructor(admin: Admin) {
    this.#admin = admin
  }

  /** Uses the texts of a language from the next drawing on. */
  async speak(lang: string): Promise<void> {
    this.#admin.t = await adminTexts(lang)
  }

  stop(): void {
    this.#admin.sampler.stop()
  }

  show(section: Section) {
    return (
      <AdminContext.Provider value={this.#admin}>
        <Page section={section} />
      </AdminContext.Provider>
    )
  }

  dialog() {
    return (
      <AdminContext.Provider value={this.#admin}>
        <OpenDialog />
      </AdminContext.Provider>
    )
  }
}

export async function openPages(ui: Console): Promise<Pages> {
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(css)
  const t = await adminTexts(ui.t.lang)
  document.adoptedStyleSheets.push(sheet)
  const api = new LaterApi(ui.server, ui.session)
  return new Pages({ t, api, sampler: new Sampler(api, ui.changed) })
}

async function adminTexts(lang: string): Promise<Admin["t"]> {
  return textsOf(lang, lang.startsWith("ru") ? (await import("./locales/admin-ru.ts")).admin : en)
}

function OpenDialog() {
  const ui = useContext(ConsoleContext)
  const { dialog, room, message } = ui
  if (dialog === "help") return <KeysDialog />
  if (dialog === "palette") return <Palette />
  if (!room) return null
  if (dialog === "transfer") return <TransferDialog />
  if (dialog === "transcript") return <TranscriptDialog room={room} />
  if (dialog === "message" && message) return <MessageDialog key={message.id} message={message} />
  if (dialog === "block" && room.chat) {
    const address = ui.visitors.get(room.uuid)?.address ?? null
    return <BlockDialog user={room.chat.owner_user} address={address} close={() => ui.openDialog(null)} />
  }
  return null
}

function Page({ section }: { section: Section }) {
  const ui = useContext(ConsoleContext)
  if (section === "replies") return <Replies />
  if (section === "settings") return <SettingsPage />
  if (section === "sources") return <Sources menu={ui.mayShow("blocks") && <Menu section={section} />} />
  if (!isAdminSection(section) || !ui.mayShow(section)) return null
  return <AdminPage key={section} section={section} />
}

function AdminPage({ section }: { section: keyof typeof TITLES }) {
  const { t } = useContext(AdminContext)
  return (
    <section class={`page${section === "actors" || section === "metrics" ? " broad" : ""}`} aria-labelledby="page-title">
      <Menu section={section} />
      <h2 id="page-title">{t(TITLES[section])}</h2>
      {section === "operators" && <Operators />}
      {section === "tags" && <Tags />}
      {section === "blocks" && <Blocks />}
      {section === "actors" && <Actors />}
      {section === "metrics" && <Metrics />}
    </section>
  )
}

/** The pages of the administration, above each of them. */
function Menu({ section }: { section: Section }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  return (
    <nav class="pages" aria-label={ui.t("administration")}>
      {SECTIONS.filter(each => ui.mayShow(each)).map(each => (
        <button
          key={each}
          type="button"
          aria-current={each === section ? "page" : undefined}
          ref={each === section ? show : null}
          onClick={() => ui.show(each)}
        >
          {each === "sources" ? ui.t("sources") : t(TITLES[each])}
        </button>
      ))}
    </nav>
  )
}

/** On narrow screens not all of them fit. */
function show(button: HTMLElement | null): void {
  button?.scrollIntoView({ inline: "center", block: "nearest" })
}
