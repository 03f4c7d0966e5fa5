/** The chat's window. The loader imports this module when it is needed. */
import { render } from "preact"
import { Chat } from "../sdk/chat.ts"
import { browserEnvironment } from "../sdk/environment.ts"
import { isOfOther } from "../sdk/transcript.ts"
import type { Message } from "../sdk/types.ts"
import { Avatar } from "../ui/avatar.tsx"
import { clean } from "../ui/clean.ts"
import { addFiles, Composer, type Draft } from "../ui/composer.tsx"
import { UiContext, type ShownImage, type Ui } from "../ui/context.ts"
import { clock } from "../ui/formats.ts"
import { loadTexts } from "../ui/i18n.ts"
import { Icon } from "../ui/icons.tsx"
import { nameOf } from "../ui/people.ts"
import { armSound, ring, soundIsOn, turnSound } from "../ui/sound.ts"
import type { PanelControl, Shell } from "./contract.ts"
import { readInfo, wantedLanguages, type WidgetInfo } from "./config.ts"
import { Closed, ConnectionBar, EndedCard, Foot, Header, Start } from "./conversation.tsx"
import { coverPage, coversPage } from "./fullscreen.ts"
import { VisitorLog } from "./log.tsx"
import { session } from "./session.ts"
import css from "./widget.css"

/** The part of an inline panel that must be in view. */
const IN_VIEW = 0.5

export async function start(shell: Shell): Promise<PanelControl> {
  const { root, place, launcher, settings, inline } = shell
  const frame = place.parentElement as HTMLElement
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(css)
  root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet]
  const badge = document.createElement("span")
  badge.className = "n"
  launcher.append(badge)

  const { source, server } = settings
  let info: WidgetInfo | null = null
  const texts = () =>
    loadTexts(wantedLanguages(settings.lang, [document.documentElement.lang, ...navigator.languages], info?.config.languages ?? []))
  const chat = new Chat(browserEnvironment("local"), { source, server, token: undefined, pages: true })
  const ui: Ui = { chat, server, t: await texts(), limits: null, showImage }
  const draft: Draft = { text: session.get("draft"), files: [], notice: "" }
  const field: { current: HTMLTextAreaElement | null } = { current: null }

  let isOpen = false
  /** Whether the panel is drawn, which begins in the task after the opening. */
  let isDrawn = false
  let isAtBottom = true
  let writesAgain = false
  let menu = false
  let image: ShownImage | null = null
  /** Whether an inline panel is in the visible part of the page. */
  let isInView = !inline
  let said = ""
  let saidCount = 0
  let isDropping = false
  let frameRequest = 0
  let unread = -1
  let ticker = 0
  let uncover: (() => void) | null = null

  // ---- drawing

  function changed(): void {
    if (frameRequest) return
    // Hidden pages get no animation frames.
    const draw = (): void => {
      frameRequest = 0
      show()
    }
    frameRequest = document.hidden ? setTimeout(draw, 50) : requestAnimationFrame(draw)
  }

  function show(): void {
    if (chat.status !== "closed") writesAgain = false
    if (isOpen && isInView && isAtBottom && !document.hidden) chat.markRead()
    if (image && chat.messages.find(message => message.id === image?.message)?.redacted) image = null
    if (chat.unread !== unread) {
      unread = chat.unread
      shell.emit("unread", unread)
    }
    label()
    // The bar about a lost connection counts seconds.
    if (isOpen && chat.lostAt) ticker ||= window.setInterval(changed, 1000)
    else if (ticker) {
      clearInterval(ticker)
      ticker = 0
    }
    const focused = root.activeElement
    render(<App />, place)
    // The focus must not leave the panel with a button that disappears.
    if (isOpen && focused && !root.activeElement) place.querySelector<HTMLElement>(".panel")?.focus()
  }

  function label(): void {
    const { t } = ui
    const name = settings.label || t("chat")
    const count = isOpen ? 0 : chat.unread
    badge.textContent = count ? (count > 99 ? "99+" : String(count)) : ""
    launcher.setAttribute("aria-label", count ? `${name}, ${t("unread", { count })}` : name)
    launcher.setAttribute("aria-expanded", String(isOpen))
    frame.lang = t.lang
    shell.accent(settings.accent || info?.config.accent || "")
    frame.classList.toggle("nofab", launcher.hidden === true)
  }

  function App() {
    return (
      <UiContext.Provider value={ui}>
        {isDrawn ? <Panel /> : <Peek />}
        <div class="sr" role="status" aria-live="polite">
          {/* A new element, so that an equal text is read again. */}
          <span key={saidCount}>{said}</span>
        </div>
      </UiContext.Provider>
    )
  }

  function Panel() {
    const { t } = ui
    const isStart = chat.loaded && !chat.messages.length && !chat.pending.length
    const isClosed = chat.status === "closed" && !writesAgain && !chat.pending.length
    const waits = chat.status === "new" && chat.messages.some(message => message.type === "standard")
    const name = nameOf(chat.chat?.operator_user)
    return (
      <section
        class={`panel${isStart ? " start" : ""}`}
        role={inline ? "region" : "dialog"}
        tabIndex={-1}
        aria-modal={inline ? undefined : coversPage()}
        aria-label={name ? t("chatWith", { name }) : t("chat")}
        onDragOver={event => drag(event, true)}
        onDragLeave={event => {
          if (!event.currentTarget.contains(event.relatedTarget as Node | null)) drag(event, false)
        }}
        onDrop={drop}
      >
        <Header
          title={clean(info?.config.title ?? "")}
          menu={menu}
          setMenu={setMenu}
          toggleSound={toggleSound}
          close={inline ? undefined : close}
        />
        <ConnectionBar now={Date.now()} />
        {isStart ? <Start info={info} /> : <VisitorLog note={waits && !chat.typing.length ? t("arrived") : ""} onBottom={scrolled} />}
        {chat.state === "ended" ? (
          <EndedCard />
        ) : isClosed ? (
          <Closed writeAgain={writeAgain} />
        ) : (
          <Composer
            draft={draft}
            changed={drafted}
            field={field}
            foot={<Foot privacy={info?.config.privacy_url ?? ""} />}
          />
        )}
        {isDropping && <div class="drop">{t("dropHere")}</div>}
        {image && (
          <dialog
            class="light"
            aria-label={t("image", { name: image.name })}
            ref={element => {
              if (!element?.open) element?.showModal()
            }}
            onClick={event => event.currentTarget.close()}
            onClose={() => showImage(null)}
          >
            <img src={image.url} alt={image.name} />
            <button type="button" class="ib" aria-label={t("closeImage")}>
              <Icon name="close" />
            </button>
          </dialog>
        )}
      </section>
    )
  }

  /** The newest message beside the launcher. */
  function Peek() {
    const { t } = ui
    const newest = chat.unread ? chat.messages.findLast(message => isOfOther(message, "user") && !message.redacted) : undefined
    if (!newest?.user || launcher.hidden || session.get("dismissed") === String(newest.id)) return null
    const file = newest.attachments[0]
    return (
      <div class="peek">
        <button
          type="button"
          class="x"
          aria-label={t("dismiss")}
          onClick={() => {
            session.set("dismissed", String(newest.id))
            changed()
          }}
        >
          <Icon name="close" size={16} />
        </button>
        <button type="button" class="in" onClick={open}>
          <Avatar user={newest.user} online={chat.people.some(user => user.id === newest.user?.id)} />
          <b>
            <bdi>{nameOf(newest.user) || t("operator")}</bdi>
          </b>
          <span class="t" dir="auto">
            {clean(newest.text || file?.filename || "")}
          </span>
        </button>
      </div>
    )
  }

  // ---- what the visitor does

  function open(): void {
    armSound()
    unfold()
    soon(() => {
      // A phone's keyboard would cover what the visitor wants to read first.
      const target = matchMedia("(pointer: coarse)").matches ? null : field.current
      ;(target ?? place.querySelector<HTMLElement>(".panel"))?.focus()
    })
  }

  /** Does something in a task of its own if the panel is open then: the page must not wait for all of it at once. */
  function soon(act: () => void, after = 0): void {
    setTimeout(() => isOpen && act(), after)
  }

  /** Opens the panel and leaves the focus where it is. */
  function unfold(): void {
    if (isOpen) return
    isOpen = true
    void learn()
    if (inline) watcher.observe(shell.host)
    else {
      session.set("open", "1")
      chat.setShown(true)
      frame.classList.add("full")
      uncover = coverPage(frame, changed)
    }
    soon(() => {
      isDrawn = true
      show()
    })
    // The first use of a language's rules and of its times takes a while: it is over before there is a message whose time is shown.
    soon(() => "a".localeCompare("b", ui.t.lang), 200)
    soon(() => clock(ui.t.lang, new Date()), 400)
    if (!inline) shell.emit("open")
  }

  function close(): void {
    if (!isOpen || inline) return
    isOpen = isDrawn = false
    menu = false
    image = null
    session.set("open", "")
    chat.setShown(false)
    frame.classList.remove("full")
    uncover?.()
    uncover = null
    show()
    launcher.focus()
    shell.emit("close")
  }

  function setMenu(opened: boolean): void {
    menu = opened
    show()
    if (!opened) place.querySelector<HTMLElement>("[aria-haspopup]")?.focus()
  }

  function toggleSound(): void {
    turnSound(!soundIsOn())
    setMenu(false)
  }

  /** Asks again at each opening, because presence changes. */
  async function learn(): Promise<void> {
    const answer = await readInfo(server, source)
    if (!answer) return
    info = answer
    ui.limits = { text: info.text_length, ...info.files }
    ui.t = await texts()
    changed()
  }

  function showImage(shown: typeof image): void {
    image = shown
    show()
  }

  function writeAgain(): void {
    writesAgain = true
    show()
    field.current?.focus()
  }

  function drafted(): void {
    session.set("draft", draft.text)
    changed()
  }

  function scrolled(isThere: boolean): void {
    if (isAtBottom === isThere) return
    isAtBottom = isThere
    changed()
  }

  function drag(event: DragEvent, inside: boolean): void {
    if (!event.dataTransfer?.types.includes("Files")) return
    event.preventDefault()
    isDropping = inside
    changed()
  }

  function drop(event: DragEvent): void {
    const files = event.dataTransfer?.files
    isDropping = false
    if (files?.length) {
      event.preventDefault()
      addFiles(draft, files, ui)
      writesAgain = true
    }
    changed()
  }

  function keyPressed(event: KeyboardEvent): void {
    const isEscape = event.key === "Escape" && !event.isComposing
    // Keys that are meant for the chat must not reach the page's hot keys. An Escape without use here is the page's.
    if (isEscape && (!isOpen || (inline && !menu && !image))) return
    event.stopPropagation()
    // The dialog of an image closes by itself.
    if (!isEscape || event.type !== "keydown" || image) return
    if (menu) setMenu(false)
    else close()
  }

  function clicked(event: Event): void {
    armSound()
    const inMenu = (event.target as Element).closest(".menu, [aria-haspopup]")
    if (menu && !inMenu) {
      menu = false
      changed()
    }
  }

  function onMessage(message: Message): void {
    shell.emit("message", message)
    if (!isOfOther(message, "user")) return
    const name = nameOf(message.user) || ui.t("operator")
    saidCount++
    said = `${name}: ${clean(message.text) || message.attachments.map(file => clean(file.filename)).join(", ")}`
    if (chat.leads && (document.hidden || !isOpen || !root.activeElement)) ring()
  }

  function violated({ blockedURI, effectiveDirective }: SecurityPolicyViolationEvent): void {
    if (!blockedURI.replace(/^ws/, "http").startsWith(server)) return
    console.error(`actorchat: this page's policy must allow ${new URL(blockedURI).origin} in ${effectiveDirective}`)
  }

  /** An inline panel is shown while at least half of it is in view. */
  const watcher = new IntersectionObserver(
    entries => {
      isInView = (entries.at(-1)?.intersectionRatio ?? 0) >= IN_VIEW
      chat.setShown(isInView)
      changed()
    },
    { threshold: IN_VIEW },
  )
  for (const key of ["keydown", "keypress", "keyup"] as const) frame.addEventListener(key, keyPressed)
  frame.addEventListener("click", clicked)
  document.addEventListener("visibilitychange", changed)
  document.addEventListener("securitypolicyviolation", violated)
  chat.on("change", changed)
  chat.on("message", onMessage)
  chat.setShown(false)
  show()
  if (inline || session.get("open") || settings.open === "true") unfold()

  return {
    open,
    close,
    isOpen: () => isOpen,
    send: text => void chat.send(text),
    identify: token => chat.identify(token),
    signOut() {
      draft.text = ""
      draft.files = []
      drafted()
      chat.signOut()
    },
    update: () => void texts().then(t => ((ui.t = t), changed())),
    destroy() {
      document.removeEventListener("visibilitychange", changed)
      document.removeEventListener("securitypolicyviolation", violated)
      clearInterval(ticker)
      watcher.disconnect()
      uncover?.()
      chat.stop()
      render(null, place)
    },
  }
}
