import { useContext, useEffect, useState } from "preact/hooks"
import type { VisitorInfo } from "../../sdk/desk-types.ts"
import type { User } from "../../sdk/types.ts"
import { clean } from "../../ui/clean.ts"
import { ConsoleContext } from "../context.ts"
import { BlockDialog, until } from "../dialogs/block.tsx"
import { Icon } from "../icons.tsx"
import { Face } from "../people.tsx"
import { AdminContext, type Errors, useReading, useTask } from "./context.ts"
import { Failed, Loading } from "./parts.tsx"
import type { Block } from "./types.ts"

/** So many lines have names. Each takes two requests; the others have the visitor's number. */
const MOST_NAMED = 100

const ERRORS: Errors = { not_found: "unblockedMeanwhile" }

/** What is known of a blocked visitor who has a chat that the operator may see. */
interface Known extends VisitorInfo {
  chat: string
}

/** The page with the visitors and network addresses that are blocked. */
export function Blocks() {
  const ui = useContext(ConsoleContext)
  const { api, t } = useContext(AdminContext)
  const [isAdding, setAdding] = useState(false)
  const [said, setSaid] = useState("")
  const { value: blocks, error, read } = useReading(() => api.blocks())
  const task = useTask(ERRORS)
  const visitors = useVisitors(blocks)
  const userOf = (id: number): User => visitors.get(id)?.user ?? { id, role: "user", avatar: "", lastname: "", firstname: "", patronymic: "" }
  const nameOf = ({ user, address }: Block): string => (user === null ? (address ?? "") : ui.nameOf(userOf(user)))
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
            {block.user === null ? (
              <span class="face">
                <span class="av">
                  <Icon name="network" />
                </span>
              </span>
            ) : (
              <Face user={userOf(block.user)} name={nameOf(block)} />
            )}
            <div class="about">
              <Whom name={nameOf(block)} known={visitors.get(block.user ?? 0)} />
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

/** The name leads to the visitor's newest chat. */
function Whom({ name, known }: { name: string; known: Known | undefined }) {
  return (
    <h3>
      {known ? (
        <a href={`#chat/${known.chat}`}>
          <bdi>{name}</bdi>
        </a>
      ) : (
        <bdi>{name}</bdi>
      )}
      {known?.address && <span class="tag num">{known.address}</span>}
    </h3>
  )
}

/** Reads who the blocked visitors are, one after the other. */
function useVisitors(blocks: readonly Block[] | null): ReadonlyMap<number, Known> {
  const { desk } = useContext(ConsoleContext)
  const [visitors, setVisitors] = useState<ReadonlyMap<number, Known>>(new Map())
  useEffect(() => {
    let isShown = true
    const read = async (): Promise<void> => {
      for (const { user } of blocks?.slice(0, MOST_NAMED) ?? []) {
        if (!isShown) return
        if (user === null || visitors.has(user)) continue
        try {
          const chat = (await desk.list({ owner: user, limit: 1 })).chats[0]?.chat.uuid
          if (!chat) continue
          const known = { ...(await desk.visitor(chat)), chat }
          setVisitors(before => new Map(before).set(user, known))
        } catch {
          // The line shows the visitor's number.
        }
      }
    }
    void read()
    return () => void (isShown = false)
  }, [blocks])
  return visitors
}
