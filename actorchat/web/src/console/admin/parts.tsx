import type { ComponentChildren } from "preact"
import { useContext, useRef, useState } from "preact/hooks"
import { ConsoleContext } from "../context.ts"
import { Icon } from "../icons.tsx"
import { AdminContext, type Task } from "./context.ts"

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

interface FormProperties {
  task: Task
  submit: (form: HTMLFormElement) => Promise<void>
  /** The text of the button that submits. */
  label: string
  children: ComponentChildren
  /** Whether the button takes something away. */
  isBad?: boolean
  isTwoColumns?: boolean
  /** There is a button to cancel, if it is given. */
  close?: () => void
  /** What stands beside the buttons. */
  more?: ComponentChildren
}

/** A form of a dialog. It says why it did not work, and can't be sent twice at once. */
export function DialogForm({ task, submit, label, children, isBad, isTwoColumns, close, more }: FormProperties) {
  const { t } = useContext(AdminContext)
  return (
    <form
      class={`form${isTwoColumns ? " two" : ""}`}
      onSubmit={event => {
        event.preventDefault()
        void submit(event.currentTarget)
      }}
    >
      {children}
      <Outcome error={task.error} />
      <span class="actions span">
        <button class={`btn p${isBad ? " bad" : ""}`} disabled={task.isBusy}>
          {label}
        </button>
        {close && (
          <button type="button" class="btn" onClick={close}>
            {t("cancel")}
          </button>
        )}
        {more}
      </span>
    </form>
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
