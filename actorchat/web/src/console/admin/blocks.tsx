import { useContext, useState } from "preact/hooks"
import type { User } from "../../sdk/types.ts"
import { clean } from "../../ui/clean.ts"
import { ConsoleContext } from "../context.ts"
import { BlockDialog, until } from "../dialogs/block.tsx"
import { AdminContext, type Errors, useReading, useTask } from "./context.ts"
import { Failed, Loading } from "./parts.tsx"
import type { Block } from "./types.ts"

const ERRORS: Errors = { not_found: "unblockedMeanwhile" }

/** The page with the visitors and network addresses that are blocked. */
export function Blocks() {
  const ui = useContext(ConsoleContext)
  const { api, t } = useContext(AdminContext)
  const [isAdding, setAdding] = useState(false)
  const [said, setSaid] = useState("")
  const { value: blocks, error, read } = useReading(() => api.blocks())
  const task = useTask(ERRORS)
  const nameOf = ({ user, address }: Block): string =>
    user === null ? (address ?? "") : ui.nameOf({ id: user, role: "user", firstname: "", lastname: "" } as User)
  const by = (id: number): string => {
    const operator = ui.desk.operators.find(({ user }) => user.id === id)?.user
    return ui.operatorName(operator)
  }
  const unblock = async (block: Block): Promise<void> => {
    setSaid("")
    if (await task.run(() => api.unblock(block.id))) setSaid(t("unblocked", { name: nameOf(block) }))
    read()
  }
  return (
    <>
      <p class="lead">{t("blocksLead")}</p>
      <div class="tools">
        <button type="button" class="btn p" onClick={() => setAdding(true)}>
          {t("addAddress")}
        </button>
      </div>
      <Failed error={error || task.error} again={read} />
      {!blocks && !error && <Loading />}
      <p role="status" class={said ? "done" : ""}>
        {said}
      </p>
      <ul class="lines">
        {blocks?.map(block => (
          <li class="line" key={block.id}>
            <div class="about">
              <h3>
                <bdi>{nameOf(block)}</bdi>
              </h3>
              {block.reason && <p>{clean(block.reason)}</p>}
              <p>{t("blockedBy", { name: by(block.by), time: until(t.lang, block.created) })}</p>
            </div>
            <p class="since num">{block.until === null ? t("forEver") : t("blockUntil", { time: until(t.lang, block.until) })}</p>
            <span class="actions">
              <button type="button" class="btn" aria-label={t("unblockNamed", { name: nameOf(block) })} onClick={() => void unblock(block)}>
                {t("unblock")}
              </button>
            </span>
          </li>
        ))}
      </ul>
      {blocks?.length === 0 && <p class="lead">{t("noBlocks")}</p>}
      {isAdding && <BlockDialog user={null} address={null} close={() => setAdding(false)} done={read} />}
    </>
  )
}
