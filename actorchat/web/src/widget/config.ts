/** What the server knows of a source's widget before anybody has written. */
export interface WidgetInfo {
  config: {
    title: string
    greeting: string
    questions: string[]
    accent: string
    privacy_url: string
    languages: string[]
    answer_seconds: number | null
  }
  online: boolean
  team: { name: string; avatar: string; online: boolean }[]
  text_length: number
  files: { size: number; number: number; types: string[] }
}

/** The languages to try one after the other: the one that is set, then those that the visitor reads and the source offers. */
export function wantedLanguages(set: string, read: readonly string[], offered: readonly string[]): string[] {
  const fits = (tag: string): boolean => !offered.length || offered.some(name => tag.split("-")[0] === name.split("-")[0])
  return [set, ...read.filter(fits), ...offered].filter(Boolean)
}

/** Returns null if the server can't be asked: the widget then shows its own words. */
export async function readInfo(server: string, source: string): Promise<WidgetInfo | null> {
  try {
    const answer = await fetch(`${server}/api/sources/${source}/widget`, { credentials: "omit" })
    return answer.ok ? ((await answer.json()) as WidgetInfo) : null
  } catch {
    return null
  }
}
