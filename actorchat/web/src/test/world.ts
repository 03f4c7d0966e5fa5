/** A browser in virtual time, and a server that a test scripts. */
import type { Environment } from "../sdk/environment.ts"
import type { ChatRecord, Message, User } from "../sdk/types.ts"
import { Chat } from "../sdk/chat.ts"

export const visitor: User = { id: 7, role: "user", avatar: "", lastname: "", firstname: "", patronymic: "" }
export const olga: User = { id: 1, role: "operator", avatar: "", lastname: "Marsh", firstname: "Olga", patronymic: "" }

export const record = (uuid = "c1", status: ChatRecord["status"] = "new"): ChatRecord => ({
  uuid,
  widget: { source: "lk" },
  status,
  owner_user: visitor,
  operator_user: null,
})

export class FakeSocket {
  readyState = 0
  sent: { type: string; data: Record<string, unknown> }[] = []
  onmessage: ((event: { data: string }) => void) | null = null
  onclose: ((event: { code: number }) => void) | null = null
  url: string
  protocols: string[]
  constructor(world: World, url: string, protocols: string[]) {
    this.url = url
    this.protocols = protocols
    world.sockets.push(this)
  }
  send(text: string): void {
    this.sent.push(JSON.parse(text))
  }
  close(): void {
    this.readyState = 3
  }
  /** The server sends an event. */
  event(type: string, data: object): void {
    this.readyState = 1
    this.onmessage?.({ data: JSON.stringify({ type, data }) })
  }
  /** The server lets the client in. */
  accept(): void {
    this.event("user_connected", { user: visitor })
  }
  lose(code = 1006): void {
    this.readyState = 3
    this.onclose?.({ code })
  }
  commands(type: string): Record<string, unknown>[] {
    return this.sent.filter(command => command.type === type).map(command => command.data)
  }
}

class FakeStorage {
  items = new Map<string, string>()
  get length(): number {
    return this.items.size
  }
  key = (i: number): string | null => [...this.items.keys()][i] ?? null
  getItem = (key: string): string | null => this.items.get(key) ?? null
  setItem = (key: string, value: string): void => void this.items.set(key, value)
  removeItem = (key: string): void => void this.items.delete(key)
  clear = (): void => this.items.clear()
}

class FakeChannel {
  onmessage: ((event: { data: string }) => void) | null = null
  #world: World
  #all: Set<FakeChannel>
  constructor(world: World, all: Set<FakeChannel>) {
    this.#world = world
    this.#all = all
  }
  postMessage(data: string): void {
    for (const other of this.#all) if (other !== this) this.#world.later(() => other.onmessage?.({ data }))
  }
  close(): void {
    this.#all.delete(this)
  }
}

export interface Request {
  method: string
  path: string
  token: string
  body?: unknown
}

export class World {
  now = 1_000_000
  random = 1
  online = true
  visible = true
  url = "https://shop.example/"
  sockets: FakeSocket[] = []
  requests: Request[] = []
  storage = new FakeStorage()
  storageWorks = true
  /** null: as on plain http pages, where each tab leads. */
  locks: LockManager | null = null
  history: Message[] = []
  /** The answer to the next requests instead of the usual one; an exception is a lost network. */
  answer: ((request: Request) => { status: number; body: unknown } | undefined) | null = null
  uploads: { file: File; finish: (status: number, body: unknown) => void; progress: (part: number) => void }[] = []
  #channels = new Set<FakeChannel>()
  /** How long a note to another tab takes, in ms. */
  channelDelay = 0
  /** Opens what connects the tabs. */
  #channel = (): BroadcastChannel => {
    const channel = new FakeChannel(this, this.#channels)
    this.#channels.add(channel)
    return channel as unknown as BroadcastChannel
  }
  #timers = new Map<number, { at: number; f: () => void }>()
  #ids = 0
  #listeners = new Map<string, Set<(event: Event) => void>>()
  #indexes = 0

  get socket(): FakeSocket {
    const socket = this.sockets.at(-1)
    if (!socket) throw new Error("there is no socket yet")
    return socket
  }

  environment(): Environment {
    const world = this
    return {
      WebSocket: class {
        constructor(url: string, protocols: string[]) {
          return new FakeSocket(world, url, protocols)
        }
      } as unknown as Environment["WebSocket"],
      fetch: (url, init) => this.#fetch(url, init),
      upload: (_url, _token, file, progress) =>
        new Promise(resolve => this.uploads.push({ file, progress, finish: (status, body) => resolve({ status, body }) })),
      storage: this.storageWorks ? (this.storage as unknown as Storage) : null,
      locks: this.locks,
      channel: this.#channel,
      now: () => this.now,
      random: () => this.random,
      randomId: () => `id${++this.#ids}`,
      setTimeout: (f, ms) => {
        const id = ++this.#ids
        this.#timers.set(id, { at: this.now + ms, f })
        return id
      },
      clearTimeout: id => void this.#timers.delete(id),
      isOnline: () => this.online,
      isVisible: () => this.visible,
      page: () => ({ url: this.url, title: "A page", referrer: "", language: "en", timezone: "UTC" }),
      listen: (event, f) => {
        const listeners = this.#listeners.get(event) ?? new Set()
        this.#listeners.set(event, listeners.add(f))
        return () => listeners.delete(f)
      },
    }
  }

  later(f: () => void): void {
    if (this.channelDelay) this.#timers.set(++this.#ids, { at: this.now + this.channelDelay, f })
    else queueMicrotask(f)
  }

  chat(token?: () => Promise<string>): Chat {
    return new Chat(this.environment(), { source: "lk", server: "http://chat.test", token, pages: true })
  }

  /** A chat that is live, with its first socket accepted. */
  async liveChat(): Promise<Chat> {
    const chat = this.chat()
    chat.send("hello")
    await this.settle()
    this.socket.accept()
    await this.store(0)
    return chat
  }

  fire(event: string, detail: object = {}): void {
    for (const f of this.#listeners.get(event) ?? []) f(detail as Event)
  }

  /** Lets all promises run. */
  async settle(): Promise<void> {
    for (let i = 0; i < 60; i++) await Promise.resolve()
  }

  async advance(ms: number): Promise<void> {
    const end = this.now + ms
    await this.settle()
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0]
      if (!due) break
      this.#timers.delete(due[0])
      this.now = Math.max(this.now, due[1].at)
      due[1].f()
      await this.settle()
    }
    this.now = end
  }

  message(text: string, user: User | null = visitor, change: Partial<Message> = {}): Message {
    const index = this.#indexes++
    return {
      id: 100 + index,
      type: "standard",
      type_role: user?.role ?? "user",
      status: "new",
      text,
      send_time: "2026-01-20T16:31:04+00:00",
      message_index: index,
      chat: record(),
      user,
      attachments: [],
      ...change,
    }
  }

  /** The server stores the message that the socket has sent as number `at`. */
  async store(at: number, socket = this.socket): Promise<Message> {
    const command = socket.commands("send_message")[at]
    if (!command) throw new Error(`the socket sent no message ${at}`)
    const message = this.message(command["text"] as string)
    this.history.push(message)
    socket.event("message_added", { message, client_id: command["client_id"] })
    await this.advance(20)
    return message
  }

  async #fetch(url: string, init: RequestInit): Promise<Response> {
    const path = url.replace("http://chat.test", "")
    const token = ((init.headers as Record<string, string>)["Authorization"] ?? "").replace("Bearer ", "")
    const request: Request = { method: init.method ?? "GET", path, token }
    if (init.body) request.body = JSON.parse(init.body as string)
    this.requests.push(request)
    if (!this.online) throw new TypeError("Failed to fetch")
    const { status, body } = this.answer?.(request) ?? this.#usual(request)
    return new Response(JSON.stringify(body), { status })
  }

  #usual({ path }: Request): { status: number; body: unknown } {
    if (path === "/api/visitors") return { status: 201, body: { token: "t1", user: visitor, chat: record() } }
    if (path.includes("/messages?")) {
      return { status: 200, body: { messages: this.history, from_index: 0, to_index: 0, has_more: false } }
    }
    if (path.startsWith("/api/chats?")) return { status: 200, body: [] }
    return { status: 404, body: { error: { code: "not_found", detail: "no such path" } } }
  }
}
