/**
 * The reference server for `attack`: npm `ws` with default options, on a free port of 127.0.0.1.
 *
 *     node tests/peers/node_ws.mjs
 *
 * Prints the port. `/web` broadcasts each message to the other clients, `/json` parses it, every other
 * path echoes it. Loads `ws` from clients/js (run `npm ci` there). Exit code 77: it is not installed.
 */
import { createRequire } from 'node:module';

let ws;
try {
  ws = createRequire(new URL('../../clients/js/package.json', import.meta.url))('ws');
} catch {
  console.log('the npm package ws is missing: cd clients/js && npm ci');
  process.exit(77);
}

// The host's default; the default of ws is 100 MiB.
const server = new ws.WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 16 * 1024 * 1024 });
const listeners = new Set();

server.on('connection', (socket, request) => {
  const isBroadcast = request.url.startsWith('/web');
  const isJson = request.url.startsWith('/json');
  if (isBroadcast) listeners.add(socket);
  socket.on('error', () => {});
  socket.on('close', () => listeners.delete(socket));
  socket.on('message', (bytes, isBinary) => {
    if (isJson) {
      try {
        JSON.parse(bytes.toString());
      } catch {
        socket.close(1007);
      }
    } else if (isBroadcast) {
      for (const other of listeners) if (other !== socket) other.send(bytes, { binary: isBinary });
    } else {
      socket.send(bytes, { binary: isBinary });
    }
  });
});
server.on('error', error => console.error(error.message));
server.on('listening', () => console.log(server.address().port));
