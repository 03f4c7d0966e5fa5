/** Also phones that lie on their side, and pages at a high zoom. The style sheet has the same condition. */
const small = matchMedia("(max-width: 480px), (max-height: 480px)")

export function coversPage(): boolean {
  return small.matches
}

/**
 * On phones the panel covers the page: the page is inert and does not scroll, and the panel follows the visible part of
 * the screen, which a keyboard makes smaller. Returns the function that ends this.
 */
export function coverPage(frame: HTMLElement, changed: () => void): () => void {
  const { body, documentElement: html } = document
  const view = window.visualViewport
  const overflow = html.style.overflow
  const fit = (): void => {
    frame.style.setProperty("--vh", `${view?.height ?? innerHeight}px`)
    frame.style.setProperty("--vy", `${view?.offsetTop ?? 0}px`)
  }
  const apply = (): void => {
    body.inert = small.matches
    html.style.overflow = small.matches ? "hidden" : overflow
    fit()
    changed()
  }
  small.addEventListener("change", apply)
  view?.addEventListener("resize", fit)
  view?.addEventListener("scroll", fit)
  apply()
  return () => {
    small.removeEventListener("change", apply)
    view?.removeEventListener("resize", fit)
    view?.removeEventListener("scroll", fit)
    body.inert = false
    html.style.overflow = overflow
  }
}
