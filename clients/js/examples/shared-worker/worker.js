/**
 * Shared worker that holds one connection for all tabs. Its name is the URL of the resource, so
 * that each resource has a worker of its own. The page's side is shared.js.
 *
 *     page → worker   { join: true }, { leave: true }, { id, method, args }
 *     worker → page   { event, value }, { id, fyi }, { id, error }
 */
import { Plugsocket } from '/plugsocket/plugsocket.js';

const METHODS = new Set(['send', 'broadcast', 'feedback', 'echo']);

const ports = new Set();
const socket = new Plugsocket(self.name);
let status = { status: socket.status };

socket.on('status', change => (status = change));
for (const event of ['status', 'message', 'binary']) {
  socket.on(event, value => {
    for (const port of ports) port.postMessage({ event, value });
  });
}

self.addEventListener('connect', ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data.join) join(port);
    else if (data.leave) leave(port);
    else call(port, data);
  };
});

function join(port) {
  ports.add(port);
  // Tells all ports, if the socket was closed.
  if (socket.status === 'closed') socket.open();
  else port.postMessage({ event: 'status', value: status });
}

/** The worker lives as long as a tab is open; the connection only as long as a tab uses it. */
function leave(port) {
  ports.delete(port);
  if (ports.size === 0) socket.close();
}

async function call(port, { id, method, args }) {
  try {
    if (!METHODS.has(method)) throw new TypeError(`no method ${method}`);
    port.postMessage({ id, fyi: await socket[method](...args) });
  } catch ({ code, message, closeCode }) {
    port.postMessage({ id, error: { code, message, closeCode } });
  }
}
