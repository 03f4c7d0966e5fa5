// A relay on uWebSockets.js, with its `publish`. It loads the package's compiled module directly, without the wrapper.
import { createRequire } from "node:module";
import { added } from "./message.mjs";

const require = createRequire(import.meta.url);
const abi = process.versions.modules;
const uws = require(`@trufflesuite/uws-js-unofficial/dist/uws_${process.platform}_${process.arch}_${abi}.node`);
const decoder = new TextDecoder();
const app = uws.App();
app
  .ws("/*", {
    compression: uws.DISABLED,
    idleTimeout: 120,
    maxBackpressure: 64 * 1024 * 1024,
    upgrade: (response, request, context) => {
      response.upgrade(
        { room: request.getUrl() },
        request.getHeader("sec-websocket-key"),
        request.getHeader("sec-websocket-protocol"),
        request.getHeader("sec-websocket-extensions"),
        context,
      );
    },
    open: (socket) => socket.subscribe(socket.room),
    message: (socket, frame) => app.publish(socket.room, added(decoder.decode(frame)), false),
  })
  .listen("127.0.0.1", Number(process.argv[2]), (token) => token || process.exit(1));
