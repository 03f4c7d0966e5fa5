import { useContext, useState } from "preact/hooks"
import type { Room } from "../../sdk/desk-types.ts"
import { AdminContext, useTask } from "../admin/context.ts"
import { Outcome } from "../admin/parts.tsx"
import type { TranscriptFormat } from "../admin/types.ts"
import { Modal } from "./modal.tsx"

const FORMATS = { html: "asHtml", text: "asText", json: "asJson" } as const
const HINTS = { html: "asHtmlHint", text: "asTextHint", json: "asJsonHint" } as const
const EXTENSIONS = { html: "html", text: "txt", json: "json" } as const
/** Milliseconds after which the browser has surely taken the file. */
const TAKEN = 60_000

/** Saves the whole chat as a file. */
export function TranscriptDialog({ room }: { room: Room }) {
  const { api, t } = useContext(AdminContext)
  const [said, setSaid] = useState("")
  const task = useTask()
  const save = async (format: TranscriptFormat): Promise<void> => {
    setSaid("")
    const name = `chat-${room.uuid}.${EXTENSIONS[format]}`
    if (await task.run(async () => offer(await api.transcript(room.uuid, format), name))) setSaid(t("transcriptSaved", { name }))
  }
  return (
    <Modal title={t("transcriptTitle")}>
      <p class="lead">{t("transcriptLead")}</p>
      <ul class="pick plain">
        {(Object.keys(FORMATS) as TranscriptFormat[]).map(format => (
          <li key={format}>
            <button type="button" disabled={task.isBusy} onClick={() => void save(format)}>
              <b>{t(FORMATS[format])}</b>
              <small>{t(HINTS[format])}</small>
            </button>
          </li>
        ))}
      </ul>
      <Outcome error={task.error} />
      <p class="small" role="status">
        {said}
      </p>
    </Modal>
  )
}

/** Lets the browser save a file. */
function offer(file: Blob, name: string): void {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(file)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), TAKEN)
}
