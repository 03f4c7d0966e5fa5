import { useContext } from "preact/hooks"
import { AdminContext } from "../admin/context.ts"
import { ConsoleContext } from "../context.ts"
import { Face } from "../people.tsx"
import { Modal } from "./modal.tsx"

/** Gives the open chat to another operator. */
export function TransferDialog() {
  const ui = useContext(ConsoleContext)
  const { t, desk, room } = ui
  const admin = useContext(AdminContext)
  if (!room) return null
  const current = room.chat?.operator_user?.id
  const others = desk.operators
    .filter(({ user }) => user.id !== current)
    .sort((a, b) => Number(b.is_online) - Number(a.is_online) || ui.operatorName(a.user).localeCompare(ui.operatorName(b.user)))
  return (
    <Modal title={admin.t("transferTitle")}>
      {others.length === 0 && <p>{admin.t("nobodyElse")}</p>}
      <ul class="pick">
        {others.map(({ user, is_online, away, new_chats, open_chats }) => (
          <li key={user.id}>
            <button type="button" onClick={() => void ui.act(() => desk.transfer(room.uuid, user.id))}>
              <Face user={user} name={ui.operatorName(user)} online={is_online} />
              <b>
                <bdi>{ui.operatorName(user)}</bdi>
              </b>
              <small>
                {away ? t("away") : is_online ? t("onlineNow") : t("offline")} · {admin.t("chats", { count: new_chats + open_chats })}
              </small>
            </button>
          </li>
        ))}
      </ul>
    </Modal>
  )
}
