import { options, render } from "preact"
import { ApiError } from "../sdk/api.ts"
import { openDesk, openOperatorSession } from "../sdk/desk.ts"
import { openStore } from "../sdk/store.ts"
import type { BrowserChat } from "../sdk/types.ts"
import { UiContext } from "../ui/context.ts"
import type { Texts } from "../ui/i18n.ts"
import { armSound } from "../ui/sound.ts"
import { Alerts } from "./alerts.ts"
import { App } from "./app.tsx"
import { ConsoleContext } from "./context.ts"
import { Keys } from "./keys.ts"
import type { Language } from "./locales/en.ts"
import { languagesFor, parse, settingsOf, showTheme, storage } from "./settings.ts"
import { SignIn } from "./sign-in.tsx"
import { Console, isMenu } from "./state.ts"
import { consoleTexts } from "./texts.ts"

/** Milliseconds after which everything that is not needed at first is loaded. */
const LATER = 3_000

const place = document.getElementById("console") as HTMLElement
/** The server may be below a path of its host. */
const server = new URL(".", location.href).href.replace(/\/$/, "")
const session = openOperatorSession(server)
const store = openStore("actorchat.console.", storage())

// Changes of components are drawn together with those of the desk. Hidden pages get no animation frames.
const soon = (f: () => void): number => (document.hidden ? setTimeout(f, 50) : requestAnimationFrame(f))
let waiting: (() => void) | null = null
options.debounceRendering = drawComponents => {
  waiting = drawComponents
  soon(drawWaiting)
}
// Otherwise Enter right after a letter would act on the text as it was drawn last, without that letter.
for (const type of ["keydown", "submit", "click"]) addEventListener(type, drawWaiting, true)

void start()

function drawWaiting(): void {
  const drawComponents = waiting
  waiting = null
  drawComponents?.()
}

async function start(): Promise<void> {
  const settings = settingsOf(parse(store.get("settings")))
  showTheme(settings)
  const t = await consoleTexts(languagesFor(settings, navigator.languages))
  document.documentElement.lang = t.lang
  // The code must not stay in the address, where it could be copied or bookmarked.
  const code = /^#sign-in=([\w-]+)$/.exec(location.hash)?.[1]
  if (code) history.replaceState(null, "", location.pathname)
  try {
    if (code) await session.signInOnce(code)
    else await session.token()
    run(t)
  } catch (error) {
    const isRefused = error instanceof ApiError && error.status === 401
    if (code && isRefused && (await isSignedIn())) return run(t)
    ask(t, isRefused ? (code ? t("linkUsed") : "") : t("unreachable"))
  }
}

async function isSignedIn(): Promise<boolean> {
  return session.token().then(
    () => true,
    () => false,
  )
}

function ask(t: Texts<Language>, why: string): void {
  document.title = t("console")
  render(<SignIn t={t} session={session} why={why} done={() => run(t)} />, place)
}

/** Shows the console until the sign-in ends. */
function run(t: Texts<Language>): void {
  let frame = 0
  let later = 0
  let isReady = false
  let isOver = false
  const changed = (): void => {
    frame ||= soon(draw)
  }
  const desk = openDesk({ token: refused => session.token(refused), server })
  const settings = settingsOf(parse(store.get("settings")))
  const ui: Console = new Console(t, settings, store, server, desk, session, changed, why => leave(why))
  const keys = new Keys(ui, () => draw())
  const alerts = new Alerts(ui)
  const shared = {
    // The shared components that the console uses need nothing else of a chat.
    chat: { renewLinks: message => ui.room?.renewLinks(message) ?? Promise.resolve() } as BrowserChat,
    get t() {
      return ui.t
    },
    server,
    limits: null,
    showImage(image: typeof ui.image) {
      ui.image = image
      changed()
    },
  }

  function draw(): void {
    frame = 0
    if (isOver || ui.isSigningOut) return
    if (desk.state === "ended") return leave("ended")
    if (desk.me && !isReady) {
      isReady = true
      void ui.use(desk.me.settings)
      ui.follow()
      ui.sendUnsent()
      void ui.readReplies()
      void ui.readWidgets()
      // So that dialogs open at once.
      later = setTimeout(() => void ui.openPages(), LATER)
    }
    alerts.update()
    render(
      <UiContext.Provider value={shared}>
        <ConsoleContext.Provider value={ui}>
          <App key={ui.t.lang} now={Math.floor(Date.now() / 1000) * 1000} />
        </ConsoleContext.Provider>
      </UiContext.Provider>,
      place,
    )
  }

  const key = (event: KeyboardEvent): void => {
    armSound()
    keys.press(event)
  }
  const pressed = (event: Event): void => {
    armSound()
    if (isMenu(ui.dialog) && !(event.target as Element).closest(".hold")) ui.openDialog(null)
  }
  const follow = (): void => ui.follow()
  const isWide = matchMedia("(min-width: 1201px)")
  // On narrow screens the card covers the chat.
  const resized = (): void => ui.toggleCard(isWide.matches && ui.store.get("card") !== "closed", false)
  // Waiting times and the local time of visitors go on by themselves.
  const ticker = setInterval(changed, 5_000)
  addEventListener("keydown", key)
  addEventListener("pointerdown", pressed)
  addEventListener("popstate", follow)
  isWide.addEventListener("change", resized)
  desk.on("change", changed)

  function leave(why: "signed-out" | "ended"): void {
    isOver = true
    clearInterval(ticker)
    clearTimeout(later)
    removeEventListener("keydown", key)
    removeEventListener("pointerdown", pressed)
    removeEventListener("popstate", follow)
    isWide.removeEventListener("change", resized)
    alerts.stop()
    ui.pages?.stop()
    desk.stop()
    render(null, place)
    ask(ui.t, why === "ended" ? ui.t("signInEnded") : "")
  }
  draw()
}
