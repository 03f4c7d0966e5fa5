import type { Environment, PageContext } from "./environment.ts"
import type { Attachment, ChatRecord, Message, Refusal, User } from "./types.ts"

/** An answer that is an error, or no answer: then the status is 0 and the code `unreachable`. */
export class ApiError extends Error implements Refusal {
  readonly status: number
  readonly code: string
  readonly detail: string
  /** The field at fault, "" for none. */
  readonly path: string
  /** Milliseconds, 0 if the server names none. */
  readonly retryAfter: number

  constructor(status: number, body: unknown, retryAfter = 0) {
    const error = (body as { error?: Refusal & { path: string } } | null)?.error
    const code = error?.code ?? (status ? `http_${status}` : "unreachable")
    const detail = error?.detail ?? (status ? `the server answered ${status}` : "the server can't be reached")
    super(`${code}: ${detail}`)
    this.status = status
    this.code = code
    this.detail = detail
    this.path = error?.path ?? ""
    this.retryAfter = retryAfter
  }

  get isTemporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500
  }
}

export interface Visit {
  token: string
  user: User
  chat: ChatRecord
}

export interface Page {
  messages: Message[]
  has_more: boolean
  /** Which of the messages were edited or redacted. */
  edits?: { message_index: number; edited_at: string; redacted: boolean }[]
}

/** Calls the HTTP API of one server. All calls reject with an ApiError. */
export class Api {
  #env: Environment
  #server: string

  constructor(env: Environment, server: string) {
    this.#env = env
    this.#server = server
  }

  /** `anonymous` is the token of the anonymous visitor whose chats the one with `token` gets. */
  visit(source: string, token: string, context?: PageContext, anonymous?: string): Promise<Visit> {
    return this.call("POST", "/api/visitors", token, { source, context, anonymous })
  }

  newestChats(source: string, token: string): Promise<ChatRecord[]> {
    return this.call("GET", `/api/chats?limit=1&source=${source}`, token)
  }

  async messages(chat: string, query: string, token: string): Promise<Page> {
    const page = await this.call<Page>("GET", `/api/chats/${chat}/messages?${query}`, token)
    for (const { message_index, ...edit } of page.edits ?? []) {
      Object.assign(page.messages.find(message => message.message_index === message_index) ?? {}, edit)
    }
    return page
  }

  chat(chat: string, token: string, change = ""): Promise<ChatRecord> {
    return this.call(change ? "POST" : "GET", `/api/chats/${chat}${change}`, token)
  }

  signOut(token: string): Promise<unknown> {
    return this.call("POST", "/api/sign-out", token)
  }

  async upload(file: File, token: string, progress: (part: number) => void, signal: AbortSignal): Promise<Attachment> {
    const { status, body } = await this.#env.upload(`${this.#server}/api/attachments`, token, file, progress, signal)
    if (status !== 201) throw new ApiError(status, body)
    return body as Attachment
  }

  protected call<T>(method: string, path: string, token: string, body?: object): Promise<T> {
    return callJson(this.#env, method, this.#server + path, token, body)
  }
}

/** Makes a call with JSON. Rejects with an ApiError. */
export async function callJson<T>(
  env: Environment,
  method: string,
  url: string,
  token: string,
  body?: object,
  credentials: RequestCredentials = "omit",
): Promise<T> {
  const headers: Record<string, string> = {}
  if (token) headers["Authorization"] = `Bearer ${token}`
  if (body) headers["Content-Type"] = "application/json"
  const init: RequestInit = { method, headers, cache: "no-store", credentials }
  if (body) init.body = JSON.stringify(body)
  let response: Response
  try {
    response = await env.fetch(url, init)
  } catch {
    throw new ApiError(0, null)
  }
  // A proxy's error page is no JSON.
  const value: unknown = await response.json().catch(() => null)
  if (!response.ok) throw new ApiError(response.status, value, Number(response.headers.get("Retry-After") ?? 0) * 1000)
  if (value === null && response.status !== 204) throw new ApiError(0, null)
  return value as T
}
