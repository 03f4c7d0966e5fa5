import type { ComponentChildren } from "preact"
import { useContext, useLayoutEffect, useRef } from "preact/hooks"
import { ConsoleContext } from "../context.ts"
import { Icon } from "../icons.tsx"

/** A modal dialog of the browser, which keeps the focus inside. */
export function Modal({ title, children, close, broad }: { title: string; children: ComponentChildren; close?: () => void; broad?: boolean }) {
  const ui = useContext(ConsoleContext)
  const dialog = useRef<HTMLDialogElement>(null)
  useLayoutEffect(() => {
    const shown = dialog.current
    shown?.showModal()
    // Gives the focus back also when the dialog is taken off the page.
    return () => shown?.close()
  }, [])
  return (
    <dialog
      ref={dialog}
      class={broad ? "broad" : ""}
      aria-label={title}
      // The browser tells it later. By then another dialog may be open, which must stay.
      onClose={event => event.currentTarget.isConnected && (close ?? (() => ui.openDialog(null)))()}
      onClick={event => event.target === dialog.current && dialog.current?.close()}
    >
      <div class="inner">
        <h2>{title}</h2>
        {children}
        <button type="button" class="ib shut" aria-label={ui.t("closeDialog")} onClick={() => dialog.current?.close()}>
          <Icon name="close" size={18} />
        </button>
      </div>
    </dialog>
  )
}
