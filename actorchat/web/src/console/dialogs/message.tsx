import { useContext, useState } from "preact/hooks"
import type { Message } from "../../sdk/types.ts"
import { AdminContext, type Errors, useTask } from "../admin/context.ts"
import { DialogForm, Outcome } from "../admin/parts.tsx"
import { ConsoleContext } from "../context.ts"
import { isNote } from "../system-texts.ts"
import { Modal } from "./modal.tsx"

const ERRORS: Errors = {
  too_late: "changeTooLate",
  conflict: "changeRemoved",
  not_found: "changeRemoved",
  too_long: "changeTooLong",
}

/** Edits a message of the operator, or removes one. */
export function MessageDialog({ message }: { message: Message }) {
  const ui = useContext(ConsoleContext)
  const { api, t } = useContext(AdminContext)
  const [isAsking, setAsking] = useState(false)
  const task = useTask(ERRORS)
  const { id, text, user, attachments } = message
  const isOwn = !!user && ui.isMine(user)
  const note = isNote(message)
  const canEdit = isOwn && !!text
  const close = (): void => ui.openDialog(null)
  const save = async (form: HTMLFormElement): Promise<void> => {
    const written = String(new FormData(form).get("text") ?? "").trim()
    if (!written || written === text) return close()
    if (await task.run(() => api.editMessage(id, written))) close()
  }
  const remove = async (): Promise<void> => {
    if (await task.run(() => api.removeMessage(id))) close()
  }
  const title = note && isOwn ? t("yourNote") : isOwn ? t("yourMessage") : t("messageOf", { name: user ? ui.personName(user) : "" })
  const isQuestion = isAsking || !canEdit
  return (
    <Modal title={title}>
      {isQuestion ? (
        <div class="access">
          <p>{t(note ? "removeNoteQuestion" : attachments.length ? "removeFilesQuestion" : "removeMessageQuestion")}</p>
          <Outcome error={task.error} />
          <span class="actions">
            <button type="button" class="btn p bad" disabled={task.isBusy} ref={focus} onClick={() => void remove()}>
              {t("removeForAll")}
            </button>
            <button type="button" class="btn" onClick={() => (canEdit ? setAsking(false) : close())}>
              {t("keepIt")}
            </button>
          </span>
        </div>
      ) : (
        <DialogForm
          task={task}
          submit={save}
          label={t("save")}
          close={close}
          more={
            <button type="button" class="btn far" onClick={() => setAsking(true)}>
              {t("removeMore")}
            </button>
          }
        >
          <label>
            {t("text")}
            <textarea
              name="text"
              required
              rows={4}
              dir="auto"
              maxLength={ui.limits(message.chat)?.text}
              defaultValue={text}
              ref={toEnd}
              onKeyDown={event => {
                if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.form?.requestSubmit()
              }}
            />
          </label>
          <p class="small">{t(note ? "editNoteHint" : "editHint")}</p>
        </DialogForm>
      )}
    </Modal>
  )
}

function focus(element: HTMLElement | null): void {
  element?.focus()
}

/** The cursor begins at the end of the text. */
function toEnd(field: HTMLTextAreaElement | null): void {
  if (!field || field === document.activeElement) return
  field.focus()
  field.setSelectionRange(field.value.length, field.value.length)
}
