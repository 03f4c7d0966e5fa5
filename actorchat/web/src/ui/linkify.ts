export interface Part {
  text: string
  /** Set if the text is a link. */
  href?: string
}

const LINK = /(?:https?:\/\/|www\.)[^\s<>"'`]+|mailto:[^\s<>"'`]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+/giu
const TRAILING = /[.,:;!?…*_~»”’\]}]+$/u

/** Splits plain text into text and links. Only http, https and mailto become links. */
export function linkify(text: string): Part[] {
  const parts: Part[] = []
  let end = 0
  for (const { 0: match, index } of text.matchAll(LINK)) {
    const link = trimmed(match)
    const href = addressOf(link)
    if (!href) continue
    if (index > end) parts.push({ text: text.slice(end, index) })
    parts.push({ text: link, href })
    end = index + link.length
  }
  if (end < text.length) parts.push({ text: text.slice(end) })
  return parts
}

/** Removes the punctuation of the sentence; a closing bracket stays if the link opens it. */
function trimmed(link: string): string {
  for (;;) {
    const shorter = link.replace(TRAILING, "")
    const unmatched = shorter.endsWith(")") && shorter.split("(").length < shorter.split(")").length
    const next = unmatched ? shorter.slice(0, -1) : shorter
    if (next === link) return link
    link = next
  }
}

function addressOf(link: string): string | undefined {
  const address = /^(https?|mailto):/i.test(link) ? link : link.includes("@") && !/^www\./i.test(link) ? `mailto:${link}` : `https://${link}`
  try {
    const url = new URL(address)
    return ["http:", "https:", "mailto:"].includes(url.protocol) && (url.protocol === "mailto:" || url.hostname.length > 2)
      ? url.href
      : undefined
  } catch {
    return undefined
  }
}
