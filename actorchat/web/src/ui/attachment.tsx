import type { Attachment, Message, PendingFile } from "../sdk/types.ts"
import { clean } from "./clean.ts"
import { size } from "./formats.ts"
import { Icon } from "./icons.tsx"
import { View } from "./view.ts"

/** A stored file: images as a preview that opens, all else as a download. */
export class StoredFile extends View<{ file: Attachment; message: Message }, { failures?: number }> {
  render() {
    const { file, message } = this.props
    const { chat, t, server, showImage } = this.context
    const { failures = 0 } = this.state
    const name = clean(file.filename)
    const address = (url: string): string => new URL(url, server).href
    const failed = (): void => {
      this.setState({ failures: failures + 1 })
      // Links expire after some minutes. A second failure has another reason, such as the page's policy.
      if (!failures) void chat.renewLinks(message).catch(() => {})
    }
    if (file.type === "image" && file.url_preview && failures < 2) {
      return (
        <div class="bub img">
          <button
            type="button"
            aria-label={t("openImage", { name })}
            onClick={() => showImage({ url: address(file.url), name, message: message.id })}
          >
            <img src={address(file.url_preview)} alt="" onError={failed} />
          </button>
        </div>
      )
    }
    return (
      <div class="bub file">
        <a href={address(file.url)} download={name} target="_blank" rel="noopener noreferrer">
          <span class="sr">{t("download")}</span>
          <FileCard name={name} detail={size(t.lang, file.size)} />
        </a>
      </div>
    )
  }
}

/** A file that is being uploaded, with a ring that shows how far. */
export class UploadedFile extends View<{ file: PendingFile; failed: boolean }> {
  render() {
    const { file, failed } = this.props
    const { t } = this.context
    if (!file.name) return null
    const busy = !file.uuid && !failed
    return (
      <div class="bub file">
        <FileCard
          name={clean(file.name)}
          detail={busy ? t("uploading", { percent: Math.round(file.progress * 100) }) : size(t.lang, file.size)}
          progress={busy ? file.progress : undefined}
        />
      </div>
    )
  }
}

function FileCard({ name, detail, progress }: { name: string; detail: string; progress?: number | undefined }) {
  return (
    <>
      <span class="ic">{progress === undefined ? <Icon name="file" /> : <Ring part={progress} />}</span>
      <span>
        <b>
          <bdi>{name}</bdi>
        </b>
        <small>{detail}</small>
      </span>
    </>
  )
}

function Ring({ part }: { part: number }) {
  return (
    <svg class="ring" viewBox="0 0 32 32" width="26" height="26" stroke-width="3" aria-hidden="true">
      <circle cx="16" cy="16" r="14" opacity=".25" />
      <circle cx="16" cy="16" r="14" stroke-dashoffset={88 * (1 - part)} />
    </svg>
  )
}
