import { backoff } from "./backoff.ts"
import type { Environment } from "./environment.ts"
import type { Reason, State } from "./types.ts"

const SILENCE = 20_000
const PONG = 6_000
const FAILED_IN_A_ROW = 5
/** A socket that was live for this long ends a row of attempts: a server that closes each one soon is left in peace. */
const STABLE = 5_000
const ENDINGS: Record<number, Reason> = {
  1000: "stopped",
  4401: "not_authenticated",
  4403: "not_allowed",
  4404: "not_found",
  4410: "signed_out",
}

export interface ServerEvent {
  type: string
  data: Record<string, unknown>
}

interface Handlers {
  /** Makes ready and returns the socket's address and token. A throw counts as a failed attempt. */
  prepare: () => Promise<{ url: string; token: string }>
  event: (event: ServerEvent) => void
  opened: () => void
  changed: () => void
  /** The socket can't be opened again as it is. Returns whether that was mended, and the next attempt may follow. */
  ended: (reason: Reason) => Promise<boolean>
}

/** An attempt that must not be repeated. */
export class Ended extends Error {
  readonly reason: Reason
  constructor(reason: Reason) {
    super(reason)
    this.reason = reason
  }
}

/** An attempt that may be repeated after `ms`. */
export class RetryAfter extends Error {
  readonly ms: number
  constructor(ms: number) {
    super()
    this.ms = ms
  }
}

/** One websocket that is opened again whenever it is lost, until it is closed or the server ends it for good. */
export class Link {
  state: State = "idle"
  reason: Reason = ""
  retryAt = 0
  lostAt = 0
  #env: Environment
  #on: Handlers
  #socket: WebSocket | null = null
  #attempts = 0
  #generation = 0
  #timer = 0
  #heartbeat = 0
  #pings = 0
  #mended = false
  #liveAt = Infinity

  constructor(env: Environment, handlers: Handlers) {
    this.#env = env
    this.#on = handlers
  }

  /** Connects if that was not wanted before. */
  open(): void {
    if (this.state === "idle") void this.#connect()
  }

  /** Tries again now, also after the end. */
  retry(): void {
    if (this.state === "live" || this.state === "connecting") return
    this.#attempts = 0
    void this.#connect()
  }

  close(): void {
    this.#drop()
    this.lostAt = 0
    this.#set("idle", "")
  }

  end(reason: Reason): void {
    this.#drop()
    this.#set("ended", reason)
  }

  /** Returns whether the command is on its way. It can still be lost. */
  send(type: string, data: object): boolean {
    if (this.state !== "live" || this.#socket?.readyState !== 1) return false
    this.#socket.send(JSON.stringify({ type, data }))
    return true
  }

  online(): void {
    if (this.state === "offline" || this.state === "waiting") this.retry()
    else if (this.state === "live") this.#ping()
  }

  offline(): void {
    if (this.state === "idle" || this.state === "ended") return
    this.#drop()
    this.#lost()
    this.#set("offline", "lost")
  }

  #set(state: State, reason: Reason, retryAt = 0): void {
    this.state = state
    this.reason = reason
    this.retryAt = retryAt
    this.#on.changed()
  }

  #lost(): void {
    this.lostAt ||= this.#env.now()
  }

  #drop(): void {
    this.#generation++
    this.#env.clearTimeout(this.#timer)
    this.#env.clearTimeout(this.#heartbeat)
    const socket = this.#socket
    this.#socket = null
    // The answer to the close is not awaited: the network may be gone.
    socket?.close(1000)
  }

  async #connect(): Promise<void> {
    this.#drop()
    const generation = this.#generation
    if (!this.#env.isOnline()) {
      this.#lost()
      this.#set("offline", "lost")
      return
    }
    this.#set("connecting", this.reason)
    try {
      const { url, token } = await this.#on.prepare()
      if (generation !== this.#generation) return
      this.#open(url, token, generation)
    } catch (error) {
      if (generation !== this.#generation) return
      if (error instanceof Ended) this.#set("ended", error.reason)
      else this.#wait(error instanceof RetryAfter ? error.ms : 0)
    }
  }

  #open(url: string, token: string, generation: number): void {
    const socket = new this.#env.WebSocket(url, ["actorchat.v1.ext", `bearer.${token}`])
    this.#socket = socket
    const current = (): boolean => generation === this.#generation
    // A socket that neither opens nor fails is as good as lost.
    this.#heartbeat = this.#env.setTimeout(() => current() && this.#fail(), SILENCE)
    socket.onmessage = ({ data }) => {
      if (!current()) return
      this.#expectSilence()
      if (this.state !== "live") {
        // The server closes refused sockets right after the upgrade: it is live only when something arrives.
        this.#liveAt = this.#env.now()
        this.#mended = false
        this.lostAt = 0
        this.#set("live", "")
        this.#on.opened()
      }
      this.#on.event(JSON.parse(data as string) as ServerEvent)
    }
    socket.onclose = ({ code }) => {
      if (!current()) return
      const reason = ENDINGS[code]
      if (reason) void this.#ended(reason)
      else this.#fail()
    }
  }

  async #ended(reason: Reason): Promise<void> {
    this.#drop()
    const generation = this.#generation
    // A second refusal in a row is final.
    const mended = !this.#mended && (await this.#on.ended(reason))
    if (generation !== this.#generation) return
    this.#mended = true
    if (mended) void this.#connect()
    else this.#set("ended", reason)
  }

  #fail(): void {
    this.#drop()
    this.#wait(0)
  }

  #wait(minimum: number): void {
    this.#lost()
    if (this.#env.now() - this.#liveAt >= STABLE) this.#attempts = 0
    this.#liveAt = Infinity
    const wait = Math.max(minimum, backoff(this.#attempts++, this.#env.random))
    this.#timer = this.#env.setTimeout(() => void this.#connect(), wait)
    const reason = minimum ? "rate_limited" : this.#attempts >= FAILED_IN_A_ROW ? "unreachable" : "lost"
    this.#set("waiting", reason, this.#env.now() + wait)
  }

  #expectSilence(): void {
    this.#env.clearTimeout(this.#heartbeat)
    this.#heartbeat = this.#env.setTimeout(() => this.#ping(), SILENCE)
  }

  /** Asks for a sign of life: browsers don't show the server's own pings. */
  #ping(): void {
    this.#env.clearTimeout(this.#heartbeat)
    this.send("ping", { n: ++this.#pings })
    this.#heartbeat = this.#env.setTimeout(() => this.#fail(), PONG)
  }
}
