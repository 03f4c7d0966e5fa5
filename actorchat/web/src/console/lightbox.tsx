import { useContext, useEffect, useRef } from "preact/hooks"
import { ConsoleContext } from "./context.ts"
import { Icon } from "./icons.tsx"

/** An image over everything. */
export function Lightbox() {
  const ui = useContext(ConsoleContext)
  const { t, image } = ui
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    if (image) dialog.current?.showModal()
  }, [image])
  if (!image) return null
  const close = (): void => {
    ui.image = null
    ui.changed()
  }
  return (
    <dialog class="light" ref={dialog} aria-label={t("image", { name: image.name })} onClose={close} onClick={() => dialog.current?.close()}>
      <img src={image.url} alt={image.name} />
      <button type="button" class="ib shut" aria-label={t("closeImage")}>
        <Icon name="close" />
      </button>
    </dialog>
  )
}
