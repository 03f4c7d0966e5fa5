import { useContext, useState } from "preact/hooks"
import type { Refusal, User } from "../../sdk/types.ts"
import { format } from "../../ui/formats.ts"
import { AdminContext, type Errors, useTask } from "../admin/context.ts"
import { DialogForm } from "../admin/parts.tsx"
import type { Block } from "../admin/types.ts"
import { ConsoleContext } from "../context.ts"
import { Modal } from "./modal.tsx"

const HOUR = 3600
const DURATIONS = { [HOUR]: "forHour", [24 * HOUR]: "forDay", [7 * 24 * HOUR]: "forWeek", [30 * 24 * HOUR]: "forMonth", 0: "forEver" } as const
const ERRORS: Errors = {
  "malformed address": "addressInvalid",
  "not_found user": "notInYourSources",
  nothing: "chooseWhom",
}

interface Properties {
  /** The visitor to block; null asks for an address only. */
  user: User | null
  /** The visitor's address, if it is known. */
  address: string | null
  close: () => void
  done?: () => void
}

/** Blocks a visitor, a network address, or both. */
export function BlockDialog({ user, address, close, done }: Properties) {
  const ui = useContext(ConsoleContext)
  const { api, t } = useContext(AdminContext)
  const [blocked, setBlocked] = useState<Block[]>([])
  const task = useTask(ERRORS)
  const name = user ? ui.nameOf(user) : ""
  const block = async (form: HTMLFormElement): Promise<void> => {
    const data = new FormData(form)
    const text = (field: string): string => String(data.get(field) ?? "").trim()
    const [who, where] = [data.has("visitor") && user ? user.id : 0, text("address")]
    const seconds = Number(text("seconds"))
    const rest = { reason: text("reason"), ...(seconds && { seconds }) }
    const stored: Block[] = []
    const isDone = await task.run(async () => {
      if (!who && !where) throw { code: "nothing", detail: "" } satisfies Refusal
      // An address that is no address must not leave half of it done.
      if (where) stored.push(await api.block({ address: where, ...rest }))
      if (who) stored.push(await api.block({ user: who, ...rest }))
    })
    if (stored.length) done?.()
    if (isDone) setBlocked(stored)
  }
  const [first] = blocked
  return (
    <Modal title={user ? t("blockTitle", { name }) : t("blockAddressTitle")} close={close}>
      {first ? (
        <>
          <p role="status">
            {first.until === null
              ? t("blockedForEver", { name: name || (first.address ?? "") })
              : t("blockedUntil", { name: name || (first.address ?? ""), time: until(t.lang, first.until) })}
          </p>
          {!done && <p class="small">{t("unblockHint")}</p>}
          <span class="actions">
            <button type="button" class="btn p" ref={element => element?.focus()} onClick={close}>
              {t("done")}
            </button>
          </span>
        </>
      ) : (
        <DialogForm task={task} submit={block} label={t("block")} close={close} isBad>
          {user ? (
            <fieldset>
              <legend>{t("blockWhom")}</legend>
              <label class="choice">
                <input type="checkbox" name="visitor" defaultChecked />
                <span>
                  <bdi>{name}</bdi>
                  <small>{t("blockVisitorHint")}</small>
                </span>
              </label>
              {address && (
                <label class="choice">
                  <input type="checkbox" name="address" value={address} />
                  <span>
                    {t("blockAddress", { address })}
                    <small>{t("blockAddressHint")}</small>
                  </span>
                </label>
              )}
            </fieldset>
          ) : (
            <label>
              {t("addressField")}
              <input name="address" required maxLength={64} autocomplete="off" autocapitalize="none" spellcheck={false} placeholder="203.0.113.7" autofocus />
            </label>
          )}
          <label>
            {t("blockFor")}
            <select name="seconds" defaultValue={String(24 * HOUR)}>
              {Object.entries(DURATIONS)
                .sort(([a], [b]) => (Number(a) || Infinity) - (Number(b) || Infinity))
                .map(([seconds, key]) => (
                  <option key={seconds} value={seconds} selected={seconds === String(24 * HOUR)}>
                    {t(key)}
                  </option>
                ))}
            </select>
          </label>
          <label>
            {t("blockReason")}
            <input name="reason" maxLength={500} autocomplete="off" />
          </label>
        </DialogForm>
      )}
    </Modal>
  )
}

/** The end of a block. */
export function until(lang: string, time: string): string {
  return format(lang, { dateStyle: "medium", timeStyle: "short" }).format(new Date(time))
}
