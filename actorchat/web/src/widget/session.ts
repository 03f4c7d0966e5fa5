/** Small things that last as long as the tab. */
export const session = {
  get(key: string): string {
    try {
      return sessionStorage.getItem(`actorchat.${key}`) ?? ""
    } catch {
      return ""
    }
  },
  set(key: string, value: string): void {
    try {
      if (value) sessionStorage.setItem(`actorchat.${key}`, value)
      else sessionStorage.removeItem(`actorchat.${key}`)
    } catch {
      // Blocked storage: nothing is kept.
    }
  },
}
