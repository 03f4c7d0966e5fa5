import { createRef, type ComponentChildren } from "preact"
import { clean } from "./clean.ts"
import type { Ui } from "./context.ts"
import { size } from "./formats.ts"
import { Icon } from "./icons.tsx"
import { View } from "./view.ts"

/** What is being written. It outlives the composer. */
export interface Draft {
  text: string
  files: File[]
  /** Why a file was not taken. */
  notice: string
}

/** Adds files to the draft, as far as the server accepts them. */
export function addFiles(draft: Draft, files: Iterable<File>, { limits, t }: Pick<Ui, "limits" | "t">): void {
  draft.notice = ""
  for (const file of files) {
    const name = clean(file.name)
    if (limits && file.size > limits.size) draft.notice = t("tooLarge", { name, size: size(t.lang, limits.size) })
    else if (limits && !isAccepted(file.type, limits.types)) draft.notice = t("notAccepted", { name })
    else if (limits && draft.files.length >= limits.number) draft.notice = t("tooMany", { count: limits.number })
    else draft.files.push(file)
  }
}

/** The browser tells types by their names only; the server looks at the content and decides. */
function isAccepted(type: string, accepted: string[]): boolean {
  const kind = type.split("/")[0] ?? ""
  return !type || accepted.includes(type) || accepted.includes(/^(image|video|audio)$/.test(kind) ? kind : "file")
}

interface Properties {
  draft: Draft
  /** The draft was changed: show it, and keep it. */
  changed: () => void
  field: { current: HTMLTextAreaElement | null }
  /** Shown below the field. */
  foot: ComponentChildren
}

export class Composer extends View<Properties> {
  override componentDidMount(): void {
    fitHeight(this.props.field)
  }

  override componentDidUpdate(): void {
    this.componentDidMount()
  }

  render() {
    const { draft, changed, field, foot } = this.props
    const ui = this.context
    const { chat, t, limits } = ui
    const canSend = (): boolean => !!(draft.text.trim() || draft.files.length)

    const add = (files: Iterable<File>): void => {
      addFiles(draft, files, ui)
      changed()
    }
    const send = (): void => {
      if (!canSend()) return
      chat.send(draft.text.trim(), { files: draft.files })
      Object.assign(draft, { text: "", files: [], notice: "" })
      changed()
      if (field.current) {
        // Keys may come before the next drawing, and what was sent must not be sent again with them.
        field.current.value = ""
        // The keyboard of a phone stays open.
        field.current.focus()
      }
    }
    return (
      <form
        class="comp"
        onSubmit={event => {
          event.preventDefault()
          send()
        }}
      >
        {draft.notice && (
          <p class="notice" role="alert">
            {draft.notice}
          </p>
        )}
        <div class="box">
          <Chips draft={draft} changed={changed} />
          <div class="row">
            <AttachButton add={add} />
            <textarea
              ref={element => {
                field.current = element
              }}
              rows={1}
              maxLength={limits?.text}
              dir="auto"
              aria-label={t("message")}
              placeholder={t("write")}
              value={draft.text}
              onInput={event => {
                draft.text = event.currentTarget.value
                chat.setTyping(draft.text)
                changed()
              }}
              onKeyDown={event => {
                // Enter also ends the composition of a character, which must not send.
                if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return
                if (matchMedia("(pointer: coarse)").matches) return
                event.preventDefault()
                send()
              }}
              onPaste={event => {
                const files = event.clipboardData?.files
                if (!files?.length) return
                event.preventDefault()
                add(files)
              }}
            />
            <button class="send" aria-label={t("send")} disabled={!canSend()}>
              <Icon name="send" />
            </button>
          </div>
        </div>
        <div class="foot">{foot}</div>
      </form>
    )
  }
}

/** Fits the height of a field to its text, in browsers without `field-sizing`. */
export function fitHeight(field: { current: HTMLTextAreaElement | null }): void {
  const area = field.current
  if (!area || CSS.supports("field-sizing", "content")) return
  area.style.blockSize = "auto"
  area.style.blockSize = `${area.scrollHeight}px`
}

export class AttachButton extends View<{ add: (files: Iterable<File>) => void }> {
  #input = createRef<HTMLInputElement>()

  render() {
    const { add } = this.props
    const { t } = this.context
    return (
      <>
        <button type="button" class="ib" aria-label={t("attach")} onClick={() => this.#input.current?.click()}>
          <Icon name="clip" />
        </button>
        <input
          ref={this.#input}
          type="file"
          multiple
          hidden
          onChange={event => {
            add(event.currentTarget.files ?? [])
            event.currentTarget.value = ""
          }}
        />
      </>
    )
  }
}

/** The files that are sent with the text. */
export function Chips({ draft, changed }: Pick<Properties, "draft" | "changed">) {
  if (!draft.files.length) return null
  return (
    <div class="chips">
      {draft.files.map(file => (
        <Chip
          key={file}
          file={file}
          remove={() => {
            draft.files = draft.files.filter(other => other !== file)
            changed()
          }}
        />
      ))}
    </div>
  )
}

class Chip extends View<{ file: File; remove: () => void }> {
  render() {
    const { file, remove } = this.props
    const { t } = this.context
    const name = clean(file.name)
    return (
      <span class="chip">
        {file.type.startsWith("image/") && <Thumbnail file={file} />}
        <bdi>{name}</bdi>
        <button type="button" aria-label={t("remove", { name })} onClick={remove}>
          <Icon name="close" size={14} />
        </button>
      </span>
    )
  }
}

/** Drawn on a canvas: a page's policy may forbid `blob:` images. */
class Thumbnail extends View<{ file: File }> {
  #canvas = createRef<HTMLCanvasElement>()

  override async componentDidMount(): Promise<void> {
    try {
      const image = await createImageBitmap(this.props.file)
      const side = Math.min(image.width, image.height)
      const [x, y] = [(image.width - side) / 2, (image.height - side) / 2]
      this.#canvas.current?.getContext("2d")?.drawImage(image, x, y, side, side, 0, 0, 64, 64)
      image.close()
    } catch {
      // Not an image that this browser shows.
    }
  }

  render() {
    return <canvas ref={this.#canvas} width={64} height={64} aria-hidden="true" />
  }
}
