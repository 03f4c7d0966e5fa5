// A relay on Bun's built-in server, with its `publish`.
import { added } from "./message.mjs";

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch: (request, server) =>
    server.upgrade(request, { data: new URL(request.url).pathname }) ? undefined : new Response(null, { status: 400 }),
  websocket: {
    perMessageDeflate: false,
    open: (socket) => socket.subscribe(socket.data),
    message: (socket, frame) => server.publish(socket.data, added(frame)),
  },
});
