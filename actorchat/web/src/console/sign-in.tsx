import { useState } from "preact/hooks"
import { ApiError } from "../sdk/api.ts"
import type { OperatorSession } from "../sdk/desk-types.ts"
import type { Texts } from "../ui/i18n.ts"
import { Icon } from "./icons.tsx"
import type { Language } from "./locales/en.ts"

interface Properties {
  t: Texts<Language>
  session: OperatorSession
  /** Why the form is shown, if there is a reason to tell. */
  why: string
  done: () => void
}

/** The form to sign in with a login and a password. */
export function SignIn({ t, session, why, done }: Properties) {
  const [error, setError] = useState("")
  const [isBusy, setBusy] = useState(false)
  const [isOneTime, setOneTime] = useState(false)
  const submit = async (form: HTMLFormElement): Promise<void> => {
    const text = (name: string): string => String(new FormData(form).get(name) ?? "")
    if (text("new") !== text("again")) return setError(t("passwordsDiffer"))
    setBusy(true)
    setError("")
    try {
      await session.signIn(text("login"), text("password"), text("new"))
      done()
    } catch (failure) {
      if ((failure as ApiError).code === "new_password_needed") setOneTime(true)
      else setError(signInError(t, failure))
    }
    setBusy(false)
  }
  return (
    <main class="signin">
      <form
        onSubmit={event => {
          event.preventDefault()
          if (!isBusy) void submit(event.currentTarget)
        }}
      >
        <span class="logo">
          <Icon name="logo" size={22} />
        </span>
        <h1>{t("signInTitle")}</h1>
        {why && <p class="why">{why}</p>}
        <label>
          {t("login")}
          <input name="login" autocomplete="username" autocapitalize="none" spellcheck={false} required autofocus />
        </label>
        <label>
          {t("password")}
          <input name="password" type="password" autocomplete="current-password" required />
        </label>
        {isOneTime && (
          <>
            <p class="why" role="status">
              {t("choosePassword")}
            </p>
            <label>
              {t("newPassword")}
              <input name="new" type="password" autocomplete="new-password" minLength={8} required ref={focus} />
            </label>
            <label>
              {t("newPasswordAgain")}
              <input name="again" type="password" autocomplete="new-password" required />
            </label>
          </>
        )}
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <button class="btn p" disabled={isBusy}>
          {t(isBusy ? "signingIn" : "signIn")}
        </button>
        <p class="small">{t("noAccount")}</p>
      </form>
    </main>
  )
}

export function signInError(t: Texts<Language>, failure: unknown): string {
  if (!(failure instanceof ApiError)) return String(failure)
  if (failure.path === "new_password") return t("passwordRefused")
  if (failure.status === 401) return t("wrongPassword")
  if (failure.status === 429) {
    const seconds = Math.max(1, Math.ceil(failure.retryAfter / 1000))
    return seconds < 90 ? t("tooManySeconds", { count: seconds }) : t("tooManyMinutes", { count: Math.ceil(seconds / 60) })
  }
  return failure.isTemporary ? t("unreachable") : failure.detail
}

function focus(field: HTMLElement | null): void {
  field?.focus()
}
