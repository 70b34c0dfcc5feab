/**
 * One connection for all tabs of a browser, in the shared worker worker.js:
 *
 *     import { openShared } from './shared.js';
 *     const socket = openShared('/web');
 *     socket.on('status', ({ status, error }) => console.log(status, error ?? ''));
 *     socket.on('feedback', packet => console.log(packet.message));
 *     await socket.send({ opcode: 'join', room: 'tea' });
 *
 * For the host, all tabs are one client with one uuid: every tab receives every packet, and a
 * broadcast does not reach the other tabs.
 */
import { Plugsocket, PlugsocketError } from '/plugsocket/plugsocket.js';

const OWN_EVENTS = new Set(['status', 'message', 'binary']);

/** Opens the shared connection; without shared workers, one of this tab with the same methods. */
export function openShared(url) {
  const { href } = new URL(url, location.href);
  return globalThis.SharedWorker ? new SharedPlugsocket(href) : new Plugsocket(href);
}

class SharedPlugsocket {
  #port;
  #status = { status: 'connecting' };
  #listeners = new Map();
  #calls = new Map(); // promises that wait for an answer, by id
  #lastId = 0;
  #left = new AbortController();

  constructor(url) {
    const worker = new SharedWorker(new URL('./worker.js', import.meta.url), { type: 'module', name: url });
    worker.addEventListener('error', () => this.#end({ status: 'closed', error: 'the shared worker cannot be started' }));
    this.#port = worker.port;
    this.#port.onmessage = ({ data }) => ('event' in data ? this.#receive(data) : this.#settle(data));
    this.#port.postMessage({ join: true });
    // A worker does not notice that a tab is closed. A page that is kept for "back" returns.
    const { signal } = this.#left;
    addEventListener('pagehide', () => this.#port.postMessage({ leave: true }), { signal });
    addEventListener('pageshow', ({ persisted }) => persisted && this.#port.postMessage({ join: true }), { signal });
  }

  get status() {
    return this.#status.status;
  }

  get uuid() {
    return this.#status.uuid ?? null;
  }

  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  send(packet) {
    return this.#call('send', packet);
  }

  broadcast(message) {
    return this.#call('broadcast', message);
  }

  feedback(to, message) {
    return this.#call('feedback', to, message);
  }

  echo(message) {
    return this.#call('echo', message);
  }

  /** Leaves the connection; the last tab closes it. */
  close() {
    this.#end({ status: 'closed' });
  }

  #end(status) {
    if (this.#left.signal.aborted) return;
    this.#left.abort();
    this.#port.postMessage({ leave: true });
    this.#port.close();
    const error = { code: 'lost', message: status.error ?? 'closed before it was acknowledged' };
    for (const id of [...this.#calls.keys()]) this.#settle({ id, error });
    this.#emit('status', status);
  }

  #call(method, ...args) {
    const promise = new Promise((resolve, reject) => {
      if (this.#left.signal.aborted) throw new PlugsocketError('closed', 'the socket is closed');
      const id = (this.#lastId += 1);
      this.#port.postMessage({ id, method, args });
      this.#calls.set(id, { resolve, reject });
    });
    // As in the client, a rejection may be ignored.
    promise.catch(() => {});
    return promise;
  }

  #settle({ id, fyi, error }) {
    const { resolve, reject } = this.#calls.get(id);
    this.#calls.delete(id);
    if (error === undefined) resolve(fyi);
    else reject(new PlugsocketError(error.code, error.message, error.closeCode));
  }

  #receive({ event, value }) {
    const opcode = event === 'message' ? value.opcode : undefined;
    if (typeof opcode === 'string' && !OWN_EVENTS.has(opcode)) this.#emit(opcode, value);
    this.#emit(event, value);
  }

  #emit(name, value) {
    if (name === 'status') this.#status = value;
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        reportError(error);
      }
    }
  }
}
