import { useContext, useState } from "preact/hooks"
import type { SavedReply } from "../sdk/desk-types.ts"
import { clean } from "../ui/clean.ts"
import { ConsoleContext } from "./context.ts"

type Edited = Omit<SavedReply, "id"> & { id?: string }

/** The page with the saved replies: the operator's own and, for supervisors, those of the sources. */
export function Replies() {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const [edited, setEdited] = useState<Edited | null>(null)
  const mayShare = desk.me?.rights !== "operator"
  return (
    <section class="page" aria-labelledby="page-title">
      <h2 id="page-title">{t("repliesTitle")}</h2>
      <p class="lead">{t("repliesLead")}</p>
      {ui.notice && (
        <p class="error" role="alert">
          {ui.notice}
        </p>
      )}
      {edited ? (
        <ReplyForm key={edited.id ?? ""} reply={edited} done={() => setEdited(null)} />
      ) : (
        <button type="button" class="btn p" onClick={() => setEdited({ source: null, title: "", text: "", shortcut: "" })}>
          {t("newReply")}
        </button>
      )}
      {ui.replies.length === 0 && !edited && <p class="lead">{t("noSavedReplies")}</p>}
      <ul class="replies">
        {ui.replies.map(reply => (
          <li key={reply.id}>
            <h3>
              <bdi>{clean(reply.title)}</bdi>
              {reply.shortcut && <kbd>/{clean(reply.shortcut)}</kbd>}
              <span class="tag">{reply.source === null ? t("onlyMe") : t("everybodyOf", { source: reply.source })}</span>
            </h3>
            <p>{clean(reply.text)}</p>
            {(reply.source === null || mayShare) && (
              <span class="actions">
                <button type="button" class="btn" onClick={() => setEdited(reply)}>
                  {t("edit")}
                </button>
                <button type="button" class="btn" onClick={() => void ui.act(() => desk.deleteReply(reply.id)).then(() => ui.readReplies())}>
                  {t("delete")}
                </button>
              </span>
            )}
          </li>
        ))}
      </ul>
    </section>
  )
}

function ReplyForm({ reply, done }: { reply: Edited; done: () => void }) {
  const ui = useContext(ConsoleContext)
  const { t, desk } = ui
  const sources = desk.me?.rights === "operator" ? [] : (desk.me?.sources ?? [])
  const save = async (form: HTMLFormElement): Promise<void> => {
    const data = new FormData(form)
    const text = (name: string): string => String(data.get(name) ?? "").trim()
    const saved = {
      title: text("title"),
      text: text("text"),
      shortcut: text("shortcut").replace(/^\//, ""),
      source: reply.id ? reply.source : text("source") || null,
      ...(reply.id && { id: reply.id }),
    }
    if (!(await ui.act(() => desk.saveReply(saved)))) return
    await ui.readReplies()
    done()
  }
  return (
    <form
      class="form"
      onSubmit={event => {
        event.preventDefault()
        void save(event.currentTarget)
      }}
    >
      <label>
        {t("replyTitle")}
        <input name="title" required maxLength={80} defaultValue={reply.title} autofocus />
      </label>
      <label>
        {t("replyShortcut")}
        <input name="shortcut" maxLength={40} pattern="\S*" defaultValue={reply.shortcut} placeholder="/hello" />
      </label>
      <label>
        {t("replyText")}
        <textarea name="text" required rows={4} maxLength={4000} defaultValue={reply.text} />
      </label>
      {!reply.id && sources.length > 0 && (
        <label>
          {t("forWhom")}
          <select name="source">
            <option value="">{t("onlyMe")}</option>
            {sources.map(source => (
              <option key={source} value={source}>
                {t("everybodyOf", { source })}
              </option>
            ))}
          </select>
        </label>
      )}
      <span class="actions">
        <button class="btn p">{t("save")}</button>
        <button type="button" class="btn" onClick={done}>
          {t("cancel")}
        </button>
      </span>
    </form>
  )
}
