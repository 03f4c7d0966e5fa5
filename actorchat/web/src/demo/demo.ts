/** The demo page's buttons, and its link to the console. */

interface Widget {
  push: (f: (api: { open: () => void }) => void) => void
}

const page = window as unknown as { actorchat?: Widget }

document.querySelector(".open")?.addEventListener("click", () => {
  page.actorchat ??= [] as unknown as Widget
  page.actorchat.push(api => api.open())
})

// Only those who have the address that the server has printed have a code. A fragment is not sent to any server.
if (/^#sign-in=[\w-]+$/.test(location.hash)) {
  document.querySelector<HTMLAnchorElement>("#console")?.setAttribute("href", `console${location.hash}`)
  document.querySelector(".printed")?.setAttribute("hidden", "")
  document.querySelector(".handed")?.removeAttribute("hidden")
  // It must not stay in the address, where it could be copied or bookmarked.
  history.replaceState(null, "", location.pathname + location.search)
}

for (const button of document.querySelectorAll<HTMLButtonElement>("[data-copy]")) {
  button.addEventListener("click", () => void copy(button))
}

async function copy(button: HTMLButtonElement): Promise<void> {
  const code = document.getElementById(button.dataset["copy"] ?? "")
  const status = document.querySelector(".copied")
  if (!code || !status) return
  try {
    await navigator.clipboard.writeText(code.textContent ?? "")
    status.textContent = "Copied."
  } catch {
    // Plain http pages of other hosts may not write to the clipboard.
    getSelection()?.selectAllChildren(code)
    status.textContent = "Selected. Copy it with Ctrl+C."
  }
}
