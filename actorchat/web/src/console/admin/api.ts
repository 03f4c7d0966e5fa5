import { ApiError, callJson } from "../../sdk/api.ts"
import type { OperatorSession } from "../../sdk/desk-types.ts"
import { browserEnvironment } from "../../sdk/environment.ts"
import type { Settings } from "../settings.ts"
import type { Account, ActorSort, ActorTree, Block, NewAccount, NewBlock, ServerNumbers, TagCount, TranscriptFormat } from "./types.ts"

/** The calls of the pages and dialogs that are loaded later. All reject with an ApiError. */
export class LaterApi {
  #env = browserEnvironment("memory")
  #server: string
  #session: OperatorSession

  constructor(server: string, session: OperatorSession) {
    this.#server = server
    this.#session = session
  }

  accounts(): Promise<Account[]> {
    return this.#call("GET", "/accounts")
  }

  addAccount(account: NewAccount): Promise<{ account: Account; password: string }> {
    return this.#call("POST", "/accounts", account)
  }

  changeAccount(id: number, changes: Partial<NewAccount> & { disabled?: boolean }): Promise<Account> {
    return this.#call("PATCH", `/accounts/${id}`, changes)
  }

  async resetPassword(id: number): Promise<string> {
    return (await this.#call<{ password: string }>("POST", `/accounts/${id}/password`)).password
  }

  signOut(id: number): Promise<unknown> {
    return this.#call("POST", `/accounts/${id}/sign-out`)
  }

  tags(): Promise<TagCount[]> {
    return this.#call("GET", "/tags")
  }

  /** Renames or, without `into`, removes a tag. `progress` gets the number of changed chats so far. */
  async replaceTag(tag: string, into: string, progress: (chats: number) => void): Promise<number> {
    let changed = 0
    for (;;) {
      const call = into ? this.#call("POST", "/tags/rename", { tag, into }) : this.#call("POST", "/tags/remove", { tag })
      const { chats, complete } = (await call) as { chats: number; complete: boolean }
      changed += chats
      if (complete) return changed
      progress(changed)
    }
  }

  actors(q: string, sort: ActorSort, page: number): Promise<ActorTree> {
    return this.#call("GET", `/actors?q=${encodeURIComponent(q)}&sort=${sort}&page=${page}&limit=50`)
  }

  numbers(): Promise<ServerNumbers> {
    return this.#call("GET", "/statistics")
  }

  editMessage(id: number, text: string): Promise<unknown> {
    return this.#call("PATCH", `/messages/${id}`, { text })
  }

  removeMessage(id: number): Promise<unknown> {
    return this.#call("DELETE", `/messages/${id}`)
  }

  /** The whole chat as a file. */
  transcript(chat: string, format: TranscriptFormat): Promise<Blob> {
    return this.#authorized(token => this.#download(`/chats/${chat}/transcript?format=${format}`, token))
  }

  /** Changes settings of the own console; null removes one. */
  changeSettings(changes: Partial<Settings>): Promise<Record<string, unknown>> {
    return this.#call("PATCH", "/operators/me/settings", changes)
  }

  blocks(): Promise<Block[]> {
    return this.#call("GET", "/blocks")
  }

  block(block: NewBlock): Promise<Block> {
    return this.#call("POST", "/blocks", block)
  }

  unblock(id: number): Promise<unknown> {
    return this.#call("DELETE", `/blocks/${id}`)
  }

  #call<T>(method: string, path: string, body?: object): Promise<T> {
    return this.#authorized(token => callJson(this.#env, method, `${this.#server}/api${path}`, token, body))
  }

  async #download(path: string, token: string): Promise<Blob> {
    let response: Response
    try {
      response = await this.#env.fetch(`${this.#server}/api${path}`, {
        headers: { Authorization: `Bearer ${token}` },
        cache: "no-store",
        credentials: "omit",
      })
      if (response.ok) return await response.blob()
    } catch {
      throw new ApiError(0, null)
    }
    throw new ApiError(response.status, await response.json().catch(() => null))
  }

  async #authorized<T>(call: (token: string) => Promise<T>): Promise<T> {
    const token = await this.#session.token()
    try {
      return await call(token)
    } catch (error) {
      if ((error as ApiError).status !== 401) throw error
      return call(await this.#session.token(token))
    }
  }
}
