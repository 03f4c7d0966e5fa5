import { useContext, useRef, useState } from "preact/hooks"
import { ConsoleContext } from "../context.ts"
import { Icon } from "../icons.tsx"
import { AdminContext } from "./context.ts"

/** Says why something could not be read, with a button to try again. */
export function Failed({ error, again }: { error: string; again: () => void }) {
  const { t } = useContext(AdminContext)
  return (
    <div role="alert" class={error ? "failed" : ""}>
      {error && (
        <>
          <p class="error">{error}</p>
          <button type="button" class="btn" onClick={again}>
            {t("tryAgain")}
          </button>
        </>
      )}
    </div>
  )
}

/** Says why what a form asks for did not work. */
export function Outcome({ error }: { error: string }) {
  return (
    <p class={error ? "error span" : "span"} role="alert">
      {error}
    </p>
  )
}

/** Three grey lines, which show only if something takes a while. */
export function Loading() {
  const ui = useContext(ConsoleContext)
  return (
    <div class="ghosts" role="status" aria-label={ui.t("loading")}>
      <i />
      <i />
      <i />
    </div>
  )
}

export function Filter({ label, value, onInput }: { label: string; value: string; onInput: (value: string) => void }) {
  return (
    <label class="find">
      <Icon name="find" size={18} />
      <span class="sr">{label}</span>
      <input type="search" placeholder={label} value={value} maxLength={200} onInput={event => onInput(event.currentTarget.value)} />
    </label>
  )
}

/** A text with a button that copies it. */
export function Copy({ text }: { text: string }) {
  const ui = useContext(ConsoleContext)
  const [said, setSaid] = useState("")
  const code = useRef<HTMLElement>(null)
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text)
      setSaid(ui.t("copied"))
    } catch {
      // Plain http pages of other hosts may not write to the clipboard.
      if (code.current) getSelection()?.selectAllChildren(code.current)
      setSaid(ui.t("selected"))
    }
  }
  return (
    <>
      <div class="code">
        <code ref={code}>{text}</code>
        <button type="button" class="btn" onClick={() => void copy()}>
          {ui.t("copy")}
        </button>
      </div>
      <p class="small" role="status">
        {said}
      </p>
    </>
  )
}
