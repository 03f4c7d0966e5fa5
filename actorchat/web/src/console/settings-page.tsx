import type { ComponentChildren } from "preact"
import { useContext, useState } from "preact/hooks"
import { ring, soundIsOn, turnSound } from "../ui/sound.ts"
import { AdminContext, useTask } from "./admin/context.ts"
import { Outcome } from "./admin/parts.tsx"
import { notificationsAreOn } from "./alerts.ts"
import { ConsoleContext } from "./context.ts"
import { focusSoon } from "./keys.ts"
import type { Settings } from "./settings.ts"

const THEMES = { "": "themeDevice", light: "themeLight", dark: "themeDark" } as const
/** Languages have their own names for themselves. */
const LANGUAGES = { en: "English", ru: "Русский" } as const
const ALERTS = { alertNew: "alertNew", alertGiven: "alertGiven", alertMessage: "alertMessage" } as const

/** The page on which operators choose how their console looks and sounds. Every choice counts at once. */
export function SettingsPage() {
  const ui = useContext(ConsoleContext)
  const { api, t } = useContext(AdminContext)
  const [said, setSaid] = useState("")
  const task = useTask()
  const { settings } = ui
  const choose = async (changes: Partial<Settings>): Promise<void> => {
    setSaid("")
    // The page is drawn anew in another language, which must not come before the answer.
    const isLanguage = "language" in changes
    if (!isLanguage) void ui.use({ ...settings, ...changes })
    const isDone = await task.run(async () => {
      const stored = await api.changeSettings(changes)
      if (isLanguage) await ui.use(stored)
    })
    if (!isDone) return void ui.use({ ...settings })
    setSaid(t("saved"))
    if (isLanguage) focusSoon("language")
  }
  const here = (change: () => unknown): void => {
    change()
    setSaid(t("saved"))
    ui.changed()
  }
  return (
    <section class="page" aria-labelledby="page-title">
      <h2 id="page-title">{ui.t("settings")}</h2>
      <p class="lead">{t("settingsLead")}</p>
      <div class="form settings">
        <h3>{t("look")}</h3>
        <fieldset>
          <legend>{t("theme")}</legend>
          {(Object.keys(THEMES) as (keyof typeof THEMES)[]).map(theme => (
            <label class="choice" key={theme}>
              <input type="radio" name="theme" checked={settings.theme === theme} onChange={() => void choose({ theme })} />
              <span>{t(THEMES[theme])}</span>
            </label>
          ))}
        </fieldset>
        <label class="narrow">
          {t("consoleLanguage")}
          <select id="language" value={settings.language} onChange={event => void choose({ language: event.currentTarget.value as Settings["language"] })}>
            <option value="">{t("languageBrowser")}</option>
            {Object.entries(LANGUAGES).map(([tag, name]) => (
              <option key={tag} value={tag} lang={tag}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <h3>{t("alerts")}</h3>
        <fieldset>
          <legend>{t("alertFor")}</legend>
          {(Object.keys(ALERTS) as (keyof typeof ALERTS)[]).map(name => (
            <Check key={name} isOn={settings[name]} turn={isOn => void choose({ [name]: isOn })}>
              {t(ALERTS[name])}
            </Check>
          ))}
          <Check isOn={settings.repeat} turn={repeat => void choose({ repeat })}>
            {t("repeat")}
          </Check>
        </fieldset>
        <fieldset>
          <legend>{t("onThisDevice")}</legend>
          <Check isOn={soundIsOn()} turn={isOn => here(() => turnSound(isOn))}>
            {t("sound")}
          </Check>
          <Notifications here={here} />
          <span class="actions">
            <button type="button" class="btn" disabled={!soundIsOn()} onClick={ring}>
              {t("trySound")}
            </button>
          </span>
        </fieldset>
        <h3>{t("keysTitle")}</h3>
        <Check isOn={settings.letters} turn={letters => void choose({ letters })}>
          {t("letters")}
          <small>{t("lettersHint")}</small>
        </Check>
        <span class="actions">
          <button type="button" class="btn" onClick={() => ui.openDialog("help")}>
            {t("showKeys")}
          </button>
        </span>
      </div>
      <Outcome error={task.error} />
      <p role="status" class="toast">
        {said}
      </p>
    </section>
  )
}

function Check({ isOn, turn, children }: { isOn: boolean; turn: (isOn: boolean) => void; children: ComponentChildren }) {
  return (
    <label class="choice">
      <input type="checkbox" checked={isOn} onChange={event => turn(event.currentTarget.checked)} />
      <span>{children}</span>
    </label>
  )
}

/** Notifications need the permission of the browser, which asks only here. */
function Notifications({ here }: { here: (change: () => unknown) => void }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  const [isBlocked, setBlocked] = useState(false)
  const turn = async (isOn: boolean): Promise<void> => {
    const isAllowed = !isOn || (typeof Notification !== "undefined" && (await Notification.requestPermission()) === "granted")
    setBlocked(!isAllowed)
    if (isAllowed) here(() => ui.store.set("notify", isOn ? "on" : "off"))
    else ui.changed()
  }
  return (
    <>
      <Check isOn={notificationsAreOn(ui)} turn={isOn => void turn(isOn)}>
        {t("notifications")}
        <small>{t("notificationsHint")}</small>
      </Check>
      <p class={isBlocked ? "error" : "sr"} role="alert">
        {isBlocked ? t("notificationsBlocked") : ""}
      </p>
    </>
  )
}
