// Turns a `send_message` into the `message_added` that every JavaScript relay sends.
const user = { id: 4503599627370497, role: "user", avatar: "", lastname: "", firstname: "Visitor", patronymic: "" };
const operator = { id: 1, role: "operator", avatar: "", lastname: "", firstname: "Operator", patronymic: "" };
const chat = {
  uuid: "d599cb9b-a451-4bb3-ac0c-1465b9a1c4de",
  widget: { source: "lk" },
  status: "open",
  owner_user: user,
  operator_user: operator,
};
let number = 0;

export function added(frame) {
  const text = JSON.parse(frame).data.text;
  const message = {
    id: number,
    type: "standard",
    type_role: "user",
    status: "new",
    text,
    send_time: new Date().toISOString().slice(0, 19) + "+00:00",
    message_index: number++,
    chat,
    user,
    attachments: [],
  };
  return JSON.stringify({ type: "message_added", data: { message } });
}
