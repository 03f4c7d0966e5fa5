import { useContext, useState } from "preact/hooks"
import type { Rights } from "../../sdk/desk-types.ts"
import { clean } from "../../ui/clean.ts"
import { nameOf } from "../../ui/people.ts"
import { ConsoleContext } from "../context.ts"
import { Modal } from "../dialogs/modal.tsx"
import { Face, shortTime } from "../people.tsx"
import { AdminContext, type Errors, useReading, useTask } from "./context.ts"
import { Copy, DialogForm, Failed, Filter, Loading, Outcome } from "./parts.tsx"
import type { Account, NewAccount } from "./types.ts"

const RIGHTS: readonly Rights[] = ["operator", "supervisor", "admin"]
const ROLES = { operator: "roleOperator", supervisor: "roleSupervisor", admin: "roleAdmin" } as const
const ROLE_HINTS = { operator: "roleOperatorHint", supervisor: "roleSupervisorHint", admin: "roleAdminHint" } as const
/** From so many accounts on the list can be searched. */
const MANY = 8

/** The page with the accounts of operators. */
export function Operators() {
  const { api, t } = useContext(AdminContext)
  const [query, setQuery] = useState("")
  const [edited, setEdited] = useState<number | "new" | null>(null)
  const { value: accounts, error, read } = useReading(() => api.accounts())
  const wanted = query.trim().toLocaleLowerCase()
  const shown = (accounts ?? []).filter(account => searchable(account).includes(wanted))
  const account = accounts?.find(({ id }) => id === edited)
  const close = (): void => setEdited(null)
  return (
    <>
      <p class="lead">{t("operatorsLead")}</p>
      <div class="tools">
        <button type="button" class="btn p" onClick={() => setEdited("new")}>
          {t("addOperator")}
        </button>
        {accounts && accounts.length >= MANY && <Filter label={t("findOperator")} value={query} onInput={setQuery} />}
      </div>
      <Failed error={error} again={read} />
      {!accounts && !error && <Loading />}
      <ul class="lines">
        {shown.map(account => (
          <Line key={account.id} account={account} edit={() => setEdited(account.id)} />
        ))}
      </ul>
      {accounts && shown.length === 0 && <p class="lead">{t("nothingMatches", { query })}</p>}
      {edited === "new" && accounts && <AddDialog accounts={accounts} close={close} read={read} />}
      {account && accounts && <EditDialog key={account.id} account={account} accounts={accounts} close={close} read={read} />}
    </>
  )
}

function Line({ account, edit }: { account: Account; edit: () => void }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  const { login, rights, sources, disabled, user } = account
  const name = displayName(account)
  return (
    <li class={`line${disabled ? " off" : ""}`}>
      <Face user={user} name={name} online={account.is_online && !disabled} />
      <div class="about">
        <h3>
          <bdi>{name}</bdi>
          <span class={`tag${rights === "operator" ? "" : " open"}`}>{t(ROLES[rights])}</span>
          {disabled && <span class="tag bad">{t("disabled")}</span>}
          {user.id === ui.desk.me?.user.id && <span class="tag">{t("you")}</span>}
        </h3>
        <p>
          <bdi>{clean(login)}</bdi> · {rights === "admin" ? t("allSources") : sources.join(", ") || t("noSources")}
        </p>
      </div>
      <p class="since">{signedIn(account)}</p>
      <button type="button" class="btn" aria-label={t("editNamed", { name })} onClick={edit}>
        {t("edit")}
      </button>
    </li>
  )

  function signedIn({ last_sign_in, password }: Account): string {
    if (password === "one_time") return t("waitsForSignIn")
    if (last_sign_in) return t("lastSignIn", { time: shortTime(ui.t, last_sign_in, Date.now()) })
    return t(password === "none" ? "noPassword" : "neverSignedIn")
  }
}

interface DialogProperties {
  accounts: readonly Account[]
  close: () => void
  /** Reads the accounts again. */
  read: () => void
}

const ADD_ERRORS: Errors = { conflict: "loginTaken", "malformed login": "loginInvalid", "malformed sources": "sourceNeeded" }
const SOURCE_ERRORS: Errors = { "not_found source": "noSuchSource" }

function AddDialog({ accounts, close, read }: DialogProperties) {
  const { api, t } = useContext(AdminContext)
  const [added, setAdded] = useState<{ account: Account; password: string } | null>(null)
  const task = useTask({ ...ADD_ERRORS, ...SOURCE_ERRORS })
  if (added) {
    const name = displayName(added.account)
    return (
      <Modal title={t("added", { name })} close={close}>
        <Handover login={added.account.login} password={added.password} />
        <span class="actions">
          <button type="button" class="btn p" onClick={close}>
            {t("done")}
          </button>
        </span>
      </Modal>
    )
  }
  const add = async (form: HTMLFormElement): Promise<void> => {
    const wanted = { ...accountOf(form), login: String(new FormData(form).get("login")).trim() }
    let answer: { account: Account; password: string } | null = null
    if (!(await task.run(async () => (answer = await api.addAccount(wanted))))) return
    setAdded(answer)
    read()
  }
  return (
    <Modal title={t("addOperator")} close={close}>
      <DialogForm task={task} submit={add} label={t("add")} close={close} isTwoColumns>
        <label class="span">
          {t("loginField")}
          <input name="login" required maxLength={128} autocomplete="off" autocapitalize="none" spellcheck={false} autofocus />
        </label>
        <Fields accounts={accounts} />
      </DialogForm>
    </Modal>
  )
}

const EDIT_ERRORS: Errors = { conflict: "lastAdmin", "malformed sources": "sourceNeeded" }

function EditDialog({ account, accounts, close, read }: DialogProperties & { account: Account }) {
  const ui = useContext(ConsoleContext)
  const { api, t } = useContext(AdminContext)
  const [said, setSaid] = useState("")
  const task = useTask({ ...EDIT_ERRORS, ...SOURCE_ERRORS })
  const name = displayName(account)
  const save = async (form: HTMLFormElement): Promise<void> => {
    setSaid("")
    if (!(await task.run(() => api.changeAccount(account.id, accountOf(form))))) return
    setSaid(t("saved"))
    read()
  }
  return (
    <Modal title={name} close={close}>
      <DialogForm task={task} submit={save} label={t("save")} more={<span role="status">{said}</span>} isTwoColumns>
        <Fields accounts={accounts} account={account} />
      </DialogForm>
      <h3>{t("access")}</h3>
      {account.id === ui.desk.me?.user.id ? <p class="lead">{t("ownAccount")}</p> : <Access account={account} read={read} />}
    </Modal>
  )
}

type Step = "password" | "signOut" | "disable" | "enable"

const QUESTIONS = { password: "resetQuestion", signOut: "signOutQuestion", disable: "disableQuestion", enable: "enableQuestion" } as const
const STEPS = { password: "resetPassword", signOut: "signOutEverywhere", disable: "disable", enable: "enable" } as const
const DONE = { password: "passwordReset", signOut: "signedOut", disable: "nowDisabled", enable: "nowEnabled" } as const

/** What ends or restores an operator's access. Each step is asked once more. */
function Access({ account, read }: { account: Account; read: () => void }) {
  const { api, t } = useContext(AdminContext)
  const [step, setStep] = useState<Step | null>(null)
  const [said, setSaid] = useState("")
  const [password, setPassword] = useState("")
  const task = useTask(EDIT_ERRORS)
  const name = displayName(account)
  const steps: Step[] = account.disabled ? ["enable"] : ["password", "signOut", "disable"]
  const start = (chosen: Step): void => {
    setStep(chosen)
    setSaid("")
    setPassword("")
  }
  const carryOut = async (chosen: Step): Promise<void> => {
    const isDone = await task.run(async () => {
      if (chosen === "password") setPassword(await api.resetPassword(account.id))
      else if (chosen === "signOut") await api.signOut(account.id)
      else await api.changeAccount(account.id, { disabled: chosen === "disable" })
    })
    if (!isDone) return
    setStep(null)
    setSaid(t(DONE[chosen], { name }))
    read()
  }
  return (
    <div class="access">
      {step ? (
        <div class="question" role="group" aria-label={t(STEPS[step])}>
          <p>{t(QUESTIONS[step], { name })}</p>
          <Outcome error={task.error} />
          <span class="actions">
            <button type="button" class={`btn p${step === "enable" ? "" : " bad"}`} disabled={task.isBusy} ref={focus} onClick={() => void carryOut(step)}>
              {t(STEPS[step])}
            </button>
            <button type="button" class="btn" onClick={() => setStep(null)}>
              {t("cancel")}
            </button>
          </span>
        </div>
      ) : (
        <span class="actions">
          {steps.map(each => (
            <button key={each} type="button" class="btn" onClick={() => start(each)}>
              {t(STEPS[each])}
            </button>
          ))}
        </span>
      )}
      <p role="status">{said}</p>
      {password && <Handover login={account.login} password={password} />}
    </div>
  )
}

/** What the operator needs to sign in. */
function Handover({ login, password }: { login: string; password: string }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  const text = `${ui.server}/console\n${t("loginField")}: ${login}\n${t("oneTimePassword")}: ${password}`
  return (
    <>
      <p class="lead" ref={show}>
        {t("handover")}
      </p>
      <Copy text={text} />
    </>
  )
}

/** The name, the role and the sources. */
function Fields({ account, accounts }: { account?: Account; accounts: readonly Account[] }) {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  const [rights, setRights] = useState<Rights>(account?.rights ?? "operator")
  const known = new Set([...(ui.desk.me?.sources ?? []), ...accounts.flatMap(({ sources }) => sources)])
  return (
    <>
      <label>
        {t("firstname")}
        <input name="firstname" maxLength={200} autocomplete="off" defaultValue={account?.user.firstname} />
      </label>
      <label>
        {t("lastname")}
        <input name="lastname" maxLength={200} autocomplete="off" defaultValue={account?.user.lastname} />
      </label>
      <fieldset class="span">
        <legend>{t("role")}</legend>
        {RIGHTS.map(each => (
          <label class="choice" key={each}>
            <input type="radio" name="rights" value={each} checked={rights === each} onChange={() => setRights(each)} />
            <span>
              {t(ROLES[each])}
              <small>{t(ROLE_HINTS[each])}</small>
            </span>
          </label>
        ))}
      </fieldset>
      {/* Kept in the page, so that the sources are not lost when another role is tried. */}
      <fieldset class="span" hidden={rights === "admin"}>
        <legend>{t("sourcesOf")}</legend>
        <div class="checks">
          {[...known].sort().map(source => (
            <label class="choice" key={source}>
              <input type="checkbox" name="sources" value={source} defaultChecked={account?.sources.includes(source) ?? known.size === 1} />
              <span>{source}</span>
            </label>
          ))}
        </div>
        <label>
          {t("otherSources")}
          <input name="others" pattern="[a-z0-9_\-,\s]*" autocomplete="off" autocapitalize="none" spellcheck={false} />
        </label>
      </fieldset>
    </>
  )
}

function accountOf(form: HTMLFormElement): Omit<NewAccount, "login"> {
  const data = new FormData(form)
  const text = (name: string): string => String(data.get(name) ?? "").trim()
  const sources = [...data.getAll("sources").map(String), ...text("others").split(/[,\s]+/).filter(Boolean)]
  return { rights: text("rights") as Rights, sources, firstname: text("firstname"), lastname: text("lastname") }
}

function displayName({ user, login }: Account): string {
  return nameOf(user) || clean(login)
}

function searchable({ user, login, sources }: Account): string {
  return [nameOf(user), login, ...sources].join("\n").toLocaleLowerCase()
}

function focus(element: HTMLElement | null): void {
  element?.focus()
}

/** The dialog may be higher than the screen. */
function show(element: HTMLElement | null): void {
  element?.scrollIntoView()
}
