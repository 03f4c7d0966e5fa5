/** The parts of a browser that the SDK uses. Tests replace them. */
export interface Environment {
  WebSocket: new (url: string, protocols: string[]) => WebSocket
  fetch: (url: string, init: RequestInit) => Promise<Response>
  upload: (url: string, token: string, file: File, progress: (part: number) => void, signal: AbortSignal) => Promise<UploadAnswer>
  /** null if the browser refuses it. */
  storage: Storage | null
  locks: LockManager | null
  channel: ((name: string) => BroadcastChannel) | null
  now: () => number
  random: () => number
  randomId: () => string
  setTimeout: (f: () => void, ms: number) => number
  clearTimeout: (timer: number) => void
  isOnline: () => boolean
  isVisible: () => boolean
  page: () => PageContext
  /** Calls `f` for an event of the window; returns the function that stops it. */
  listen: (event: string, f: (event: Event) => void) => () => void
}

/** The page that the visitor views, within the limits of the server. */
export interface PageContext {
  url: string
  title: string
  referrer: string
  language: string
  timezone: string
}

/** The status and the JSON of an answer; status 0 if the network failed. */
export interface UploadAnswer {
  status: number
  body: unknown
}

export function browserEnvironment(storage: "local" | "memory"): Environment {
  return {
    WebSocket,
    fetch: (url, init) => fetch(url, init),
    upload,
    storage: storage === "local" ? localStorageOrNull() : null,
    locks: navigator.locks ?? null,
    channel: typeof BroadcastChannel === "undefined" ? null : name => new BroadcastChannel(name),
    now: () => Date.now(),
    random: () => Math.random(),
    // `crypto.randomUUID` is missing on plain http pages.
    randomId: () => Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join(""),
    setTimeout: (f, ms) => setTimeout(f, ms) as unknown as number,
    clearTimeout: timer => clearTimeout(timer),
    isOnline: () => navigator.onLine,
    isVisible: () => document.visibilityState === "visible",
    page: () => ({
      url: location.href.slice(0, 8192),
      title: document.title.slice(0, 1024),
      referrer: document.referrer.slice(0, 8192),
      language: navigator.language.replace(/[^\w-]|_/g, "").slice(0, 35),
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone ?? "",
    }),
    listen(event, f) {
      addEventListener(event, f)
      return () => removeEventListener(event, f)
    },
  }
}

function localStorageOrNull(): Storage | null {
  try {
    const storage = localStorage
    storage.setItem("actorchat.probe", "1")
    storage.removeItem("actorchat.probe")
    return storage
  } catch {
    return null
  }
}

/** Uploads a file with XMLHttpRequest: fetch does not report the progress of a request's body. */
function upload(
  url: string,
  token: string,
  file: File,
  progress: (part: number) => void,
  signal: AbortSignal,
): Promise<UploadAnswer> {
  return new Promise(resolve => {
    const request = new XMLHttpRequest()
    request.open("POST", url)
    request.responseType = "json"
    request.setRequestHeader("Authorization", `Bearer ${token}`)
    request.upload.onprogress = event => progress(event.lengthComputable ? event.loaded / event.total : 0)
    request.onloadend = () => resolve({ status: request.status, body: request.response })
    signal.addEventListener("abort", () => request.abort())
    const form = new FormData()
    form.append("file", file)
    request.send(form)
  })
}
