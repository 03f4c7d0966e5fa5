/** Text under a prefix in the browser's storage, or in memory where storage is blocked or full. */
export interface Store {
  get(key: string): string | null
  set(key: string, value: string): void
  remove(key: string): void
  /** The keys that begin with `prefix`. */
  keys(prefix: string): string[]
  clear(): void
}

export function openStore(prefix: string, storage: Storage | null): Store {
  const memory = new Map<string, string>()

  const guarded = <T>(f: (storage: Storage) => T): T | undefined => {
    try {
      return storage ? f(storage) : undefined
    } catch {
      // Storage can be blocked or full at any moment.
      return undefined
    }
  }

  const keys = (start: string): string[] => {
    const found = new Set(memory.keys())
    guarded(s => {
      for (let i = 0; i < s.length; i++) {
        const key = s.key(i)
        if (key?.startsWith(prefix)) found.add(key.slice(prefix.length))
      }
    })
    return [...found].filter(key => key.startsWith(start)).sort()
  }

  const remove = (key: string): void => {
    memory.delete(key)
    guarded(s => s.removeItem(prefix + key))
  }

  return {
    get: key => memory.get(key) ?? guarded(s => s.getItem(prefix + key)) ?? null,
    set(key, value) {
      const stored = guarded(s => {
        s.setItem(prefix + key, value)
        return true
      })
      if (stored) memory.delete(key)
      else memory.set(key, value)
    },
    remove,
    keys,
    clear() {
      for (const key of keys("")) remove(key)
    },
  }
}
