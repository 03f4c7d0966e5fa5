import { createContext } from "preact"
import { useContext, useEffect, useRef, useState } from "preact/hooks"
import type { Refusal } from "../../sdk/types.ts"
import type { Texts } from "../../ui/i18n.ts"
import { ConsoleContext } from "../context.ts"
import type { LaterApi } from "./api.ts"
import type { AdminLanguage } from "./locales/admin-en.ts"
import type { Sampler } from "./sampler.ts"

/** What the pages and dialogs that are loaded later share. */
export interface Admin {
  t: Texts<AdminLanguage>
  api: LaterApi
  sampler: Sampler
}

export const AdminContext = createContext<Admin>(null as unknown as Admin)

/** The texts of errors by code, or by code and field as in `malformed login`. */
export type Errors = Partial<Record<string, keyof AdminLanguage>>

export interface Task {
  isBusy: boolean
  /** Why the last run failed, "" if it did not. */
  error: string
  run: (action: () => Promise<unknown>) => Promise<boolean>
}

/** Puts errors into the words of `errors`, else into those of the console or the server. */
function useReasons(errors: Errors): (failure: unknown) => string {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  return failure => {
    const { code, path } = failure as Refusal & { path?: string }
    const key = errors[`${code} ${path ?? ""}`] ?? errors[code]
    return key ? t(key) : ui.t("doesNotWork", { reason: ui.reason(failure) })
  }
}

/** Runs one action at a time. */
export function useTask(errors: Errors = {}): Task {
  const reason = useReasons(errors)
  const [isBusy, setBusy] = useState(false)
  // Two keys may come before the page is drawn again.
  const running = useRef(false)
  const [error, setError] = useState("")
  const run = async (action: () => Promise<unknown>): Promise<boolean> => {
    if (running.current) return false
    running.current = true
    setBusy(true)
    setError("")
    try {
      await action()
      return true
    } catch (failure) {
      setError(reason(failure))
      return false
    } finally {
      running.current = false
      setBusy(false)
    }
  }
  return { isBusy, error, run }
}

export interface Reading<T> {
  value: T | null
  /** Why the newest reading failed, "" if it did not. */
  error: string
  /** Reads again. The newest reading counts. */
  read: () => void
}

/** Reads a value at once, and whenever it is asked to. */
export function useReading<T>(fetch: () => Promise<T>): Reading<T> {
  const reason = useReasons({})
  const [value, setValue] = useState<T | null>(null)
  const [error, setError] = useState("")
  const newest = useRef(0)
  const read = async (): Promise<void> => {
    const mine = ++newest.current
    setError("")
    try {
      const answer = await fetch()
      if (mine === newest.current) setValue(answer)
    } catch (failure) {
      if (mine === newest.current) setError(reason(failure))
    }
  }
  useEffect(() => void read(), [])
  return { value, error, read: () => void read() }
}
