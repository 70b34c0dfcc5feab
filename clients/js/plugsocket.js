/**
 * JavaScript client of plugsocket, for browsers and Node: one file, no dependencies, no build step.
 *
 * Manages one connection to one resource, a queue of outgoing messages, and reconnects. Implements
 * the dialog (`ready`, `next`, `close`); the meaning of packets is left to the application.
 *
 *     import { Plugsocket } from '/plugsocket/plugsocket.js';
 *     const socket = new Plugsocket('/web');
 *     socket.on('feedback', packet => console.log(packet.message));
 *     const verdict = await socket.feedback(uuid, '50 %');   // 'delivered' or 'gone'
 */

/** Default options. Durations are in milliseconds; 0 disables a timeout. */
const DEFAULTS = {
  /** The WebSocket class. Node before 22 has no global one: `import WebSocket from 'ws'`. */
  WebSocket: undefined,
  /** Subprotocols to offer. */
  protocols: [],
  /** Splits longer text messages into chunks of at most this many bytes, at least 16; 0: never. */
  chunkSize: 0,
  /** Maximum number of queued messages; a further `send` is rejected as `full`. */
  maxQueued: 1000,
  /** How often to send a message again that may have been handled when its connection was lost. */
  resend: 0,
  /** Whether to reconnect after a lost connection. */
  reconnect: true,
  /** The wait before a reconnect doubles from the first to the second value. */
  reconnectMinMs: 500,
  reconnectMaxMs: 30_000,
  /** Closes a connection that is not `ready` within this time. */
  readyTimeoutMs: 10_000,
  /** Closes a connection that does not acknowledge a message within this time. */
  acknowledgeTimeoutMs: 60_000,
};

/** Event names of this class: packets with such an opcode are delivered as `message` only. */
const OWN_EVENTS = new Set(['status', 'message', 'binary']);

/** A connection that was ready for this long resets the backoff to `reconnectMinMs`. */
const STABLE_MS = 5_000;

/** How often to resend a message whose chunks were not all sent: the application saw none of it. */
const RESEND_UNSEEN = 3;

/** Close codes that refuse the message itself (RFC 6455): invalid data, policy, too big. */
const REFUSED = new Set([1007, 1008, 1009]);

/**
 * Reason why a message was not acknowledged. `code` is
 * `full` (not sent: `maxQueued` messages are waiting), `closed` (not sent: the socket was closed),
 * `lost` (sent, but the connection ended before its `next`: it may have been handled) or
 * `refused` (the server closed the connection because of it, with `closeCode` 1007, 1008 or 1009).
 */
export class PlugsocketError extends Error {
  constructor(code, message, closeCode) {
    super(message);
    this.name = 'PlugsocketError';
    this.code = code;
    this.closeCode = closeCode;
  }
}

/**
 * Persistent connection to one resource. Sends messages in order, one at a time, each after the
 * `next` of the previous one.
 */
export class Plugsocket {
  #url;
  #options;
  #listeners = new Map();
  #status = { status: 'closed' };
  #connection = null; // { ws, readyAt, error, retryAfter, timer }, a new object for each connection
  #queue = []; // { frames, text, attempts, seen, resolve, reject }; see #frame for the first one
  #frame = null; // index of the frame of the first message that awaits its `next`; null: none
  #failures = 0;
  #retryTimer = null;
  #ready;

  /**
   * Connects immediately.
   *
   * @param {string} [url] absolute, or relative to the page: `'/web'`, `'../web?room=7'`, `''`
   * @param {object} [options] see DEFAULTS
   * @throws {TypeError} unknown option, relative URL outside a page, or no WebSocket class
   */
  constructor(url = '', options = {}) {
    for (const name of Object.keys(options)) {
      if (!(name in DEFAULTS)) throw new TypeError(`plugsocket: there is no option ${name}`);
    }
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...options };
    const { WebSocket, chunkSize } = this.#options;
    if (typeof WebSocket !== 'function') throw new TypeError('plugsocket: no global WebSocket; pass a class as the option WebSocket');
    if (chunkSize !== 0 && !(chunkSize >= 16)) throw new TypeError('plugsocket: chunkSize must be 0 (never) or at least 16 bytes');
    this.#url = absolute(url);
    this.open();
  }

  /** The URL that it connects to, `ws:` or `wss:`. */
  get url() {
    return this.#url;
  }

  /** The uuid of this connection, or null while not ready. A new connection has a new uuid. */
  get uuid() {
    return this.#status.uuid ?? null;
  }

  /** `connecting`, `ready`, `waiting` (to reconnect) or `closed`. */
  get status() {
    return this.#status.status;
  }

  /** Promise of the uuid of this connection, or of the next one; rejected by a close. */
  get ready() {
    return this.#ready.promise;
  }

  /** Number of messages that are not acknowledged. */
  get queued() {
    return this.#queue.length;
  }

  /**
   * Adds a listener; returns a function that removes it.
   *
   * `on('status', ({status, uuid, error, closeCode, retryMs}) => …)`: changes of the connection;
   * `on('message', packet => …)`: every text message; a string if it is not a JSON object;
   * `on('binary', buffer => …)`: every binary message, as ArrayBuffer;
   * `on(opcode, packet => …)`: packets with this opcode.
   */
  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  /**
   * Queues one message: an object (sent as JSON), a string (sent unchanged), or an ArrayBuffer, a
   * view or a Blob (sent as binary).
   *
   * The promise is fulfilled with the `fyi` of the acknowledgement, or rejected with a
   * PlugsocketError. Ignoring it never causes an unhandled rejection.
   */
  send(packet) {
    if (typeof packet === 'string') return this.#enqueue(() => packet);
    if (packet instanceof ArrayBuffer) packet = packet.slice(0);
    else if (ArrayBuffer.isView(packet)) packet = packet.buffer.slice(packet.byteOffset, packet.byteOffset + packet.byteLength);
    else if (!(packet instanceof Blob)) {
      const json = JSON.stringify(packet);
      if (json === undefined) throw new TypeError('plugsocket: send takes an object, a string or binary data');
      return this.#enqueue(() => json);
    }
    return this.#enqueue(() => packet);
  }

  /** Sends to every browser except this one. */
  broadcast(message) {
    return this.send({ opcode: 'broadcast', message });
  }

  /**
   * Sends to one connection; `to` is its uuid, `{uuid}`, or `{ident}` as it announced it.
   * The promise is fulfilled with `'delivered'` or `'gone'`.
   */
  feedback(to, message) {
    const target = typeof to === 'string' ? { uuid: to } : to;
    const json = JSON.stringify({ opcode: 'feedback', ...target, message });
    // Evaluated when it is sent: a reconnect may have changed the uuid since it was queued.
    return this.#enqueue(() => `${json.slice(0, -1)},"fromUUID":${JSON.stringify(this.uuid)}}`);
  }

  /** Sends to this connection itself; arrives as a packet with the opcode `echo`. */
  echo(message) {
    return this.send({ opcode: 'echo', message });
  }

  /** Connects now: ends a wait, or opens a closed socket again. No effect while connected. */
  open() {
    if (this.#connection) return;
    clearTimeout(this.#retryTimer);
    if (this.#status.status === 'closed') this.#ready = deferred();
    const ws = new this.#options.WebSocket(this.#url, this.#options.protocols);
    ws.binaryType = 'arraybuffer';
    const connection = { ws, readyAt: null, error: null, retryAfter: null, timer: null };
    this.#connection = connection;
    const whileCurrent = react => event => {
      if (this.#connection === connection) react(event);
    };
    ws.addEventListener('message', whileCurrent(event => this.#receive(event.data)));
    ws.addEventListener('error', whileCurrent(event => (connection.error ??= event.message || null)));
    ws.addEventListener('close', whileCurrent(event => this.#lost(event.code, event.reason)));
    this.#giveUpAfter(this.#options.readyTimeoutMs, 'no ready from the server');
    this.#change({ status: 'connecting' });
  }

  /** Closes until `open` is called, and rejects all messages that are not acknowledged. */
  close(code = 1000, reason = '') {
    const { ws } = this.#detach() ?? {};
    clearTimeout(this.#retryTimer);
    ws?.close(code, reason);
    if (this.#frame !== null) this.#rejectFirst('lost', 'closed before it was acknowledged');
    this.#end({ status: 'closed' }, 'the socket was closed');
  }

  // Queue

  #enqueue(text) {
    const promised = deferred();
    if (this.#status.status === 'closed') {
      promised.reject(new PlugsocketError('closed', 'the socket is closed'));
    } else if (this.#queue.length >= this.#options.maxQueued) {
      promised.reject(new PlugsocketError('full', `${this.#options.maxQueued} messages are already waiting`));
    } else {
      this.#queue.push({ text, frames: null, attempts: 0, seen: false, ...promised });
      this.#pump();
    }
    return promised.promise;
  }

  /** Starts the first message if the connection is ready and no message is in flight. */
  #pump() {
    if (this.#frame !== null || this.#queue.length === 0 || this.#status.status !== 'ready') return;
    const first = this.#queue[0];
    first.frames = inChunks(first.text(), this.#options.chunkSize);
    first.attempts += 1;
    this.#sendFrame(0);
  }

  #sendFrame(position) {
    const [first] = this.#queue;
    this.#frame = position;
    // The application sees the message only after its last frame.
    if (position === first.frames.length - 1) first.seen = true;
    this.#giveUpAfter(this.#options.acknowledgeTimeoutMs, 'no acknowledgement from the server');
    this.#connection.ws.send(first.frames[position]);
  }

  #acknowledged(fyi) {
    if (this.#frame === null) return;
    clearTimeout(this.#connection.timer);
    if (this.#frame + 1 < this.#queue[0].frames.length) return this.#sendFrame(this.#frame + 1);
    this.#frame = null;
    this.#queue.shift().resolve(fyi ?? '');
    this.#pump();
  }

  #rejectFirst(code, message, closeCode) {
    this.#frame = null;
    this.#queue.shift().reject(new PlugsocketError(code, message, closeCode));
  }

  // Connection

  #receive(data) {
    if (typeof data !== 'string') return this.#emit('binary', data);
    const packet = parsePacket(data);
    const { opcode } = packet ?? {};
    if (opcode === 'ready') this.#becomeReady(packet.uuid);
    else if (opcode === 'next') this.#acknowledged(packet.fyi);
    else if (opcode === 'close') this.#announcedClose(packet);
    else {
      if (typeof opcode === 'string' && !OWN_EVENTS.has(opcode)) this.#emit(opcode, packet);
      this.#emit('message', packet ?? data);
    }
  }

  #becomeReady(uuid) {
    clearTimeout(this.#connection.timer);
    this.#connection.readyAt = Date.now();
    this.#change({ status: 'ready', uuid });
    this.#ready.resolve(uuid);
    this.#pump();
  }

  #announcedClose({ error, retry_after: retryAfter }) {
    this.#connection.error = String(error ?? '');
    if (retryAfter >= 0) this.#connection.retryAfter = Number(retryAfter);
  }

  #giveUpAfter(milliseconds, what) {
    const connection = this.#connection;
    clearTimeout(connection.timer);
    if (milliseconds === 0) return;
    connection.timer = setTimeout(() => {
      // On a dead network the close event may never come, so do not wait for it.
      connection.error = `${what} within ${milliseconds / 1000} s`;
      connection.ws.close();
      this.#lost(1006, '');
    }, milliseconds);
  }

  #detach() {
    const connection = this.#connection;
    this.#connection = null;
    clearTimeout(connection?.timer);
    return connection;
  }

  #lost(closeCode, reason) {
    const { readyAt, error, retryAfter } = this.#detach();
    const why = { error: error || reason || (closeCode === 1000 ? 'closed by the server' : 'connection lost'), closeCode };
    if (readyAt !== null && Date.now() - readyAt >= STABLE_MS) this.#failures = 0;
    if (this.#frame !== null) this.#lostInFlight(why);
    // 1000 without retry_after: the application has ended the conversation.
    const isEnd = closeCode === 1000 && retryAfter === null;
    if (isEnd || !this.#options.reconnect) return this.#end({ status: 'closed', ...why }, why.error);
    if (readyAt !== null) this.#ready = deferred();
    const retryMs = retryAfter !== null ? this.#announcedDelay(retryAfter) : this.#backoff(closeCode === 1008 && readyAt === null);
    this.#failures += 1;
    this.#retryTimer = setTimeout(() => this.open(), retryMs);
    this.#change({ status: 'waiting', ...why, retryMs });
  }

  #lostInFlight({ error, closeCode }) {
    const [first] = this.#queue;
    const sendsAgain = first.seen ? this.#options.resend : Math.max(this.#options.resend, RESEND_UNSEEN);
    if (REFUSED.has(closeCode)) this.#rejectFirst('refused', error, closeCode);
    else if (first.attempts > sendsAgain) this.#rejectFirst('lost', `${error}: it may have been handled`, closeCode);
    else this.#frame = null;
  }

  // Delays have jitter, so that clients of a restarted server do not reconnect all at once.

  #announcedDelay(seconds) {
    return Math.round(seconds * 1000 + Math.random() * this.#options.reconnectMinMs);
  }

  /** Exponential backoff. `isRefused` (unknown resource, not allowed) always waits longest. */
  #backoff(isRefused) {
    const { reconnectMinMs, reconnectMaxMs } = this.#options;
    const wait = isRefused ? reconnectMaxMs : Math.min(reconnectMaxMs, reconnectMinMs * 2 ** this.#failures);
    return Math.round(wait * (0.5 + Math.random() / 2));
  }

  #end(status, why) {
    this.#failures = 0;
    const closed = new PlugsocketError('closed', why, status.closeCode);
    for (const { reject } of [...this.#queue.splice(0), this.#ready]) reject(closed);
    this.#change(status);
  }

  #change(status) {
    this.#status = status;
    this.#emit('status', status);
  }

  #emit(name, value) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        // Report it as an uncaught error of the listener; other listeners and the dialog continue.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** Resolves a URL against the page and returns it as `ws:` or `wss:`. */
function absolute(url) {
  let address;
  try {
    address = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError(`plugsocket: ${JSON.stringify(url)} is not an absolute URL, and there is no page to resolve it against`);
  }
  address.protocol = address.protocol.replace(/^http/, 'ws');
  address.hash = '';
  return address.href;
}

/** Parses a JSON object; returns null for any other text. */
function parsePacket(text) {
  if (!/^\s*\{/.test(text)) return null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * Returns the frames that carry `message`: itself, or `bufferON`, chunks of at most `chunkSize` bytes,
 * `bufferOFF`. A chunk never ends inside a character, and never equals one of the two commands.
 */
function inChunks(message, chunkSize) {
  const isCommand = text => text === 'bufferON' || text === 'bufferOFF';
  if (typeof message !== 'string') return [message];
  const isLong = chunkSize > 0 && message.length * 3 > chunkSize && new TextEncoder().encode(message).length > chunkSize;
  if (!isLong && message !== 'bufferON') return [message];
  const bytes = new Uint8Array(chunkSize || 16);
  const chunks = [];
  for (let rest = message; rest !== ''; ) {
    const { read } = new TextEncoder().encodeInto(rest, bytes);
    const chunk = rest.slice(0, read);
    chunks.push(...(isCommand(chunk) ? [chunk.slice(0, 6), chunk.slice(6)] : [chunk]));
    rest = rest.slice(read);
  }
  return ['bufferON', ...chunks, 'bufferOFF'];
}

/** Returns a promise with its resolve and reject functions; ignoring its rejection is allowed. */
function deferred() {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  promise.catch(() => {});
  return { promise, resolve, reject };
}
