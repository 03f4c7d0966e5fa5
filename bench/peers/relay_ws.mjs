// A relay on ws, with a `send` for each socket.
import { WebSocketServer } from "ws";
import { added } from "./message.mjs";

const rooms = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false });
server.on("connection", (socket, request) => {
  if (!rooms.has(request.url)) rooms.set(request.url, new Set());
  const members = rooms.get(request.url);
  members.add(socket);
  socket.on("message", (frame) => {
    const event = added(frame);
    for (const member of members) member.send(event);
  });
  socket.on("close", () => members.delete(socket));
});
