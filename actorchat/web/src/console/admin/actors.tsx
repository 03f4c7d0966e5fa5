import { useContext, useEffect, useRef, useState } from "preact/hooks"
import { clean } from "../../ui/clean.ts"
import { ConsoleContext } from "../context.ts"
import { AdminContext, useTask } from "./context.ts"
import { number, shortDuration } from "./format.ts"
import { Failed, Filter, Loading } from "./parts.tsx"
import type { ActorRow, ActorSort, ActorTree, Family } from "./types.ts"

const REFRESH = 2_000
/** The server reads all its actors for each answer, so a slow answer is followed by a longer pause. */
const PAUSE = 10
/** Seconds with one message from which on an actor is shown as slow. */
const SLOW = 1
const SORTS: readonly ActorSort[] = ["inbox", "handled", "age", "restarts", "name"]
const SORT_NAMES = { inbox: "sortInbox", handled: "sortHandled", age: "sortAge", restarts: "sortRestarts", name: "sortName" } as const
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** The page with the live actors of the server, read again and again while it is shown. */
export function Actors() {
  const { api, t } = useContext(AdminContext)
  const [tree, setTree] = useState<ActorTree | null>(null)
  const [query, setQuery] = useState("")
  const [sort, setSort] = useState<ActorSort>("inbox")
  const [page, setPage] = useState(1)
  const { error, run } = useTask()
  const latest = useRef({ run })
  latest.current.run = run
  useEffect(() => {
    let timer = 0
    let isShown = true
    const read = async (): Promise<void> => {
      const began = performance.now()
      // A page in the background need not be right.
      if (!document.hidden) {
        await latest.current.run(async () => {
          const answer = await api.actors(query.trim(), sort, page)
          if (isShown) setTree(answer)
        })
      }
      if (isShown) timer = setTimeout(read, Math.max(REFRESH, (performance.now() - began) * PAUSE)) as unknown as number
    }
    timer = setTimeout(read, tree ? 250 : 0) as unknown as number
    return () => {
      isShown = false
      clearTimeout(timer)
    }
  }, [query, sort, page])
  const choose = (change: () => void): void => {
    setPage(1)
    change()
  }
  return (
    <>
      <p class="lead">{t("actorsLead")}</p>
      <div class="tools">
        <Filter label={t("findActor")} value={query} onInput={value => choose(() => setQuery(value))} />
        <label class="pickone">
          <span>{t("sortBy")}</span>
          <select value={sort} onChange={event => choose(() => setSort(event.currentTarget.value as ActorSort))}>
            {SORTS.map(each => (
              <option key={each} value={each}>
                {t(SORT_NAMES[each])}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Failed error={error && `${error} ${tree ? t("staleNumbers") : ""}`} again={() => void run(async () => setTree(await api.actors(query.trim(), sort, page)))} />
      {!tree && !error && <Loading />}
      {tree && <Summary tree={tree} />}
      {tree && (tree.matched ? <Table tree={tree} /> : <p class="lead">{t("nothingMatches", { query })}</p>)}
      {tree && tree.pages > 1 && (
        <div class="pager">
          <button type="button" class="btn" disabled={tree.page <= 1} onClick={() => setPage(tree.page - 1)}>
            {t("previous")}
          </button>
          <span class="num">{t("pageOf", { page: tree.page, pages: tree.pages })}</span>
          <button type="button" class="btn" disabled={tree.page >= tree.pages} onClick={() => setPage(tree.page + 1)}>
            {t("next")}
          </button>
        </div>
      )}
    </>
  )
}

function Summary({ tree }: { tree: ActorTree }) {
  const { t } = useContext(AdminContext)
  const total = (pick: (family: Family) => number): number => tree.families.reduce((sum, family) => sum + pick(family), 0)
  const lost = Object.values(tree.lost).reduce((sum, count) => sum + count, 0)
  const busy = total(family => family.busy)
  const queued = total(family => family.queued)
  return (
    <p class="sum num">
      <b>{t("actorCount", { count: total(family => family.actors) })}</b>
      <span>{t("busyCount", { count: busy })}</span>
      <span class={queued ? "hot" : ""}>{t("queuedCount", { count: queued })}</span>
      {lost > 0 && <span class="lostcount">{t("lostCount", { count: lost })}</span>}
    </p>
  )
}

function Table({ tree }: { tree: ActorTree }) {
  const { t } = useContext(AdminContext)
  const alone = tree.rows.filter(({ family }) => family === null)
  const families = tree.families.flatMap(family => {
    const rows = tree.rows.filter(row => row.family === family.name)
    return family.name !== null && rows.length ? [{ family, rows }] : []
  })
  return (
    <div class="scroll" role="region" aria-label={t("actorTable")} tabIndex={0}>
      <table class="grid">
        <thead>
          <tr>
            <th scope="col">{t("actor")}</th>
            <th scope="col" class="wide">
              {t("state")}
            </th>
            <th scope="col" class="right">
              {t("age")}
            </th>
            <th scope="col" class="right">
              {t("inbox")}
            </th>
            <th scope="col" class="right wide">
              {t("handled")}
            </th>
            <th scope="col" class="right">
              {t("restarts")}
            </th>
          </tr>
        </thead>
        {alone.length > 0 && (
          <tbody>
            {alone.map(row => (
              <Row key={row.name} row={row} />
            ))}
          </tbody>
        )}
        {families.map(({ family, rows }) => (
          <tbody key={family.name}>
            <tr class="family">
              <th scope="rowgroup">
                {clean(family.name ?? "")} <span class="num">{family.actors.toLocaleString(t.lang)}</span>
              </th>
              <td class="wide">{family.busy > 0 && t("busyCount", { count: family.busy })}</td>
              <td />
              <td class={`right num${family.queued ? " hot" : ""}`}>{family.queued > 0 && family.queued.toLocaleString(t.lang)}</td>
              <td class="right num wide">{family.handled.toLocaleString(t.lang)}</td>
              <td />
            </tr>
            {rows.map(row => (
              <Row key={row.name} row={row} />
            ))}
          </tbody>
        ))}
      </table>
    </div>
  )
}

function Row({ row }: { row: ActorRow }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  const { lang } = t
  const notes = [
    row.message && t("busyWith", { message: clean(row.message), time: shortDuration(lang, row.busy_for) }),
    row.waiting_on && t("waitsFor", { name: clean(row.waiting_on) }),
    row.dropped > 0 && t("lostCount", { count: row.dropped }),
  ].filter(Boolean)
  const isFull = row.inbox * 5 >= row.bound * 4
  const isChat = row.family === "room" && UUID.test(row.name)
  return (
    <tr class={row.family === null ? "" : "child"}>
      <th scope="row">
        {isChat ? (
          <button type="button" class="link" onClick={() => ui.select(row.name)}>
            {row.name}
          </button>
        ) : (
          clean(row.name)
        )}{" "}
        <small class="kind">{row.kind}</small>
        {row.state !== "running" && <small class="narrow bad">{row.state}</small>}
        {notes.length > 0 && <small class={row.busy_for >= SLOW || row.dropped ? "note bad" : "note"}>{notes.join(" · ")}</small>}
      </th>
      <td class="wide">
        <span class={row.state === "running" ? "" : "bad"}>{row.state}</span>
      </td>
      <td class="right num">{shortDuration(lang, row.age)}</td>
      <td class={`right num${isFull ? " bad" : row.inbox ? " hot" : ""}`}>
        {row.inbox.toLocaleString(lang)}
        <small>/{row.bound.toLocaleString(lang)}</small>
      </td>
      <td class="right num wide">{number(lang, row.handled)}</td>
      <td class={`right num${row.restarts ? " bad" : ""}`}>{row.restarts.toLocaleString(lang)}</td>
    </tr>
  )
}
