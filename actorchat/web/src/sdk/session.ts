import { callJson } from "./api.ts"
import type { OperatorSession } from "./desk-types.ts"
import type { Environment } from "./environment.ts"

/** A token is renewed this long before its end. */
const MARGIN = 60_000

interface SignedIn {
  token: string
  expires_in: number
}

/** Implements `OperatorSession` over an environment. The server must be of the page's own origin, because of its cookie. */
export class Session implements OperatorSession {
  #env: Environment
  #server: string
  #token = ""
  #expires = 0
  #renewal: Promise<string> | null = null

  constructor(env: Environment, server: string) {
    this.#env = env
    this.#server = server
  }

  async signIn(login: string, password: string, newPassword?: string): Promise<void> {
    this.#take(await this.#post<SignedIn>("/api/login", { login, password, ...(newPassword && { new_password: newPassword }) }))
  }

  async signInOnce(code: string): Promise<void> {
    this.#take(await this.#post<SignedIn>("/api/login/once", { code }))
  }

  token(refused = ""): Promise<string> {
    if (this.#token && this.#token !== refused && this.#env.now() < this.#expires - MARGIN) return Promise.resolve(this.#token)
    // Several rooms may ask at once: the cookie works only once.
    this.#renewal ??= this.#post<SignedIn>("/api/token")
      .then(signedIn => this.#take(signedIn))
      .finally(() => (this.#renewal = null))
    return this.#renewal
  }

  async signOut(): Promise<void> {
    const token = await this.token()
    await this.#post("/api/sign-out", undefined, token)
    this.#token = ""
  }

  #take({ token, expires_in }: SignedIn): string {
    this.#token = token
    this.#expires = this.#env.now() + expires_in * 1000
    return token
  }

  #post<T>(path: string, body?: object, token = ""): Promise<T> {
    return callJson(this.#env, "POST", this.#server + path, token, body, "same-origin")
  }
}
