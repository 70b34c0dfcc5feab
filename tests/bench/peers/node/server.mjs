/**
 * Server of the npm package `ws`, used as in its examples: `node server.mjs PORT`.
 *
 * On `/relay` a new client receives its number. A message that begins with `*` goes to all others, one
 * that begins with a number and a space to that client; the sender receives `ok`. Any other path is an
 * echo.
 */
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]), maxPayload: 32 * 1024 * 1024 });
const relayed = new Map();
let last = 0;

server.on('connection', (socket, request) => {
  socket.on('error', () => {});
  if (request.url === '/relay') relay(socket);
  else socket.on('message', (message, binary) => socket.send(message, { binary }));
});

function relay(socket) {
  const number = String(++last);
  relayed.set(number, socket);
  socket.on('close', () => relayed.delete(number));
  socket.send(number);
  socket.on('message', (message) => {
    const text = message.toString();
    const to = text.slice(0, text.indexOf(' '));
    if (to === '*') {
      for (const other of relayed.values()) if (other !== socket) other.send(text);
    } else {
      relayed.get(to)?.send(text);
    }
    socket.send('ok');
  });
}
