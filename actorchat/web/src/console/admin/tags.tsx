import { useContext, useState } from "preact/hooks"
import { clean } from "../../ui/clean.ts"
import { Modal } from "../dialogs/modal.tsx"
import { AdminContext, type Errors, useReading, useTask } from "./context.ts"
import { DialogForm, Failed, Filter, Loading } from "./parts.tsx"
import type { TagCount } from "./types.ts"

/** From so many tags on the list can be searched. */
const MANY = 10
const ERRORS: Errors = { "malformed into": "tagInvalid" }

/** The page with the tags of all chats. */
export function Tags() {
  const { api, t } = useContext(AdminContext)
  const [query, setQuery] = useState("")
  const [chosen, setChosen] = useState<{ tag: TagCount; isRemoval: boolean } | null>(null)
  const [said, setSaid] = useState("")
  const { value: tags, error, read } = useReading(() => api.tags())
  const wanted = query.trim().toLocaleLowerCase()
  const shown = (tags ?? []).filter(({ tag }) => tag.toLocaleLowerCase().includes(wanted))
  const choose = (tag: TagCount, isRemoval: boolean): void => {
    setSaid("")
    setChosen({ tag, isRemoval })
  }
  const done = (text: string): void => {
    setChosen(null)
    setSaid(text)
    read()
  }
  return (
    <>
      <p class="lead">{t("tagsLead")}</p>
      {tags && tags.length >= MANY && (
        <div class="tools">
          <Filter label={t("findTag")} value={query} onInput={setQuery} />
        </div>
      )}
      <Failed error={error} again={read} />
      {!tags && !error && <Loading />}
      <p role="status" class={said ? "done" : ""}>
        {said}
      </p>
      <ul class="lines">
        {shown.map(each => {
          const name = clean(each.tag)
          return (
            <li class="line" key={each.tag}>
              <div class="about">
                <span class="tag">
                  <bdi>{name}</bdi>
                </span>
              </div>
              <p class="since num">{t("chats", { count: each.chats })}</p>
              <span class="actions">
                <button type="button" class="btn" aria-label={t("renameNamed", { name })} onClick={() => choose(each, false)}>
                  {t("rename")}
                </button>
                <button type="button" class="btn" aria-label={t("removeNamed", { name })} onClick={() => choose(each, true)}>
                  {t("remove")}
                </button>
              </span>
            </li>
          )
        })}
      </ul>
      {tags && shown.length === 0 && <p class="lead">{query ? t("nothingMatches", { query }) : t("noTags")}</p>}
      {chosen && tags && <ChangeDialog {...chosen} tags={tags} close={() => setChosen(null)} done={done} />}
    </>
  )
}

interface ChangeProperties {
  tag: TagCount
  isRemoval: boolean
  tags: readonly TagCount[]
  close: () => void
  done: (text: string) => void
}

function ChangeDialog({ tag: { tag, chats }, isRemoval, tags, close, done }: ChangeProperties) {
  const { api, t } = useContext(AdminContext)
  const [into, setInto] = useState("")
  const [changed, setChanged] = useState(0)
  const task = useTask(ERRORS)
  const name = clean(tag)
  const target = into.trim()
  const known = tags.find(other => other.tag === target && target !== tag)
  const change = async (form: HTMLFormElement): Promise<void> => {
    // From the field: what was typed last may not be drawn yet.
    const given = String(new FormData(form).get("into") ?? "").trim()
    if (!isRemoval && (!given || given === tag)) return close()
    let count = 0
    if (!(await task.run(async () => (count = await api.replaceTag(tag, given, setChanged))))) return
    done(isRemoval ? t("tagRemoved", { name, count }) : t("tagRenamed", { name, into: clean(given), count }))
  }
  return (
    <Modal title={isRemoval ? t("removeTitle", { name }) : t("renameTitle", { name })} close={close}>
      <DialogForm
        task={task}
        submit={change}
        label={isRemoval ? t("remove") : known ? t("merge") : t("rename")}
        isBad={isRemoval}
        close={close}
        more={<span role="status">{changed > 0 && task.isBusy ? t("changedSoFar", { count: changed }) : ""}</span>}
      >
        {isRemoval ? (
          <p>{t("removeQuestion", { count: chats })}</p>
        ) : (
          <>
            <label>
              {t("newName")}
              <input name="into" required maxLength={40} list="other-tags" autocomplete="off" autofocus onInput={event => setInto(event.currentTarget.value)} />
            </label>
            <datalist id="other-tags">
              {tags.filter(other => other.tag !== tag).map(other => (
                <option key={other.tag} value={other.tag} />
              ))}
            </datalist>
            <p class="small" role="status">
              {known ? t("mergeHint", { into: clean(target), name }) : t("renameHint", { count: chats })}
            </p>
          </>
        )}
      </DialogForm>
    </Modal>
  )
}
