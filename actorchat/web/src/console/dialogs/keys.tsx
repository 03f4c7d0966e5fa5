import { useContext } from "preact/hooks"
import { AdminContext } from "../admin/context.ts"
import type { AdminLanguage } from "../admin/locales/admin-en.ts"
import { ConsoleContext } from "../context.ts"
import { isApple } from "../keys.ts"
import { Modal } from "./modal.tsx"

type Row = readonly [keys: string, text: keyof AdminLanguage]

const GROUPS: readonly { name: keyof AdminLanguage; rows: readonly Row[] }[] = [
  {
    name: "keysEverywhere",
    rows: [
      ["Mod+K", "keyPalette"],
      ["g n", "keyTabNew"],
      ["g m", "keyTabMine"],
      ["g a", "keyTabAll"],
      ["g c", "keyTabClosed"],
      ["?", "keyHelp"],
      ["Esc", "keyBack"],
    ],
  },
  {
    name: "keysInList",
    rows: [
      ["j k", "keyMove"],
      ["↓ ↑", "keyMoveInList"],
      ["Enter", "keyOpen"],
      ["/", "keySearch"],
    ],
  },
  {
    name: "keysInChat",
    rows: [
      ["a", "keyAccept"],
      ["r", "keyReply"],
      ["n", "keyNote"],
      ["t", "keyTransfer"],
      ["e", "keyClose"],
    ],
  },
  {
    name: "keysWriting",
    rows: [
      ["Enter", "keySend"],
      ["Shift+Enter", "keyLine"],
      ["/", "keyReplies"],
      ["↑", "keyChange"],
      ["Alt+↓ Alt+↑", "keyNext"],
    ],
  },
]

/** All keys of the console. */
export function KeysDialog() {
  const ui = useContext(ConsoleContext)
  const { t } = useContext(AdminContext)
  return (
    <Modal title={t("keysTitle")} broad>
      <div class="keygroups">
        {GROUPS.map(({ name, rows }) => (
          <section key={name}>
            <h3>{t(name)}</h3>
            <dl class="keys">
              {rows.map(([keys, text]) => (
                <div key={text}>
                  <dt>
                    <Keys keys={keys} />
                  </dt>
                  <dd>{t(text)}</dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
      <p class="small">{t(ui.settings.letters ? "keysHint" : "keysOff")}</p>
    </Modal>
  )
}

/** Keys as they are named on this keyboard. */
export function Keys({ keys }: { keys: string }) {
  return (
    <span class="kbds">
      {keys.split(/[ +]/).map((key, at) => (
        <kbd key={at}>{key === "Mod" ? (isApple() ? "⌘" : "Ctrl") : key === "Alt" && isApple() ? "⌥" : key}</kbd>
      ))}
    </span>
  )
}
