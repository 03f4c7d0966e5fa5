/** Moves the focus to the first button of a menu that has just opened. */
export function focusFirst(menu: HTMLElement | null): void {
  if (menu && !menu.querySelector(":focus")) menu.querySelector("button")?.focus()
}
