/**
 * The JavaScript client of plugsocket, for browsers and Node: one file, no dependency, no build step.
 *
 * Owns one connection to one resource at a time, the queue in front of it, and the decision when to connect again.
 * Speaks the dialog (`ready`, `next`, `close`); knows nothing of what an application means by its packets.
 *
 *     import { Plugsocket } from '/plugsocket/plugsocket.js';
 *     const socket = new Plugsocket('/web');
 *     socket.on('feedback', packet => console.log(packet.message));
 *     const verdict = await socket.feedback(uuid, '50 %');   // 'delivered' or 'gone'
 */

/** What each option is when it is not given. Durations are in milliseconds; 0 switches a limit in time off. */
const DEFAULTS = {
  /** The WebSocket class; Node before 22 has none of its own: `import WebSocket from 'ws'`. */
  WebSocket: undefined,
  /** Subprotocols to offer. */
  protocols: [],
  /** Text messages of more bytes than this are sent in chunks of at most so many bytes; 0: never. At least 16. */
  chunkSize: 0,
  /** How many messages may wait, the one that is being sent included; a `send` beyond it is rejected as `full`. */
  maxQueued: 1000,
  /** How often a message is sent again that may have been handled already when its connection was lost. */
  resend: 0,
  /** Whether to connect again after a connection was lost. */
  reconnect: true,
  /** The wait before connecting again doubles from the first to the second. */
  reconnectMinMs: 500,
  reconnectMaxMs: 30_000,
  /** A connection that is not `ready` within this time is given up. */
  readyTimeoutMs: 10_000,
  /** A connection on which a message is not acknowledged within this time is given up. */
  acknowledgeTimeoutMs: 60_000,
};

/** Names that `on` keeps for itself: a packet whose opcode is one of them is found under `message` only. */
const OWN_EVENTS = new Set(['status', 'message', 'binary']);

/** A connection that was ready for so long is a good one: the next wait begins at `reconnectMinMs` again. */
const STABLE_MS = 5_000;

/** A message of which the application has certainly seen nothing (its chunks were not all sent) goes out again so often. */
const RESEND_UNSEEN = 3;

/** RFC 6455 section 7.4.1: the message was refused (no UTF-8, against the policy, too big); it would be refused again. */
const REFUSED = new Set([1007, 1008, 1009]);

/**
 * Why a message was not acknowledged. `code` is
 * `full` (never sent: `maxQueued` messages are waiting), `closed` (never sent: the socket was closed),
 * `lost` (sent, the connection ended before its `next`: it may have been handled) or
 * `refused` (the server closed the connection over it, with `closeCode` 1007, 1008 or 1009).
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
 * A connection to one resource that stays: messages go out in order, one at a time, each after the `next` of the one before.
 */
export class Plugsocket {
  #url;
  #options;
  #listeners = new Map();
  #status = { status: 'closed' };
  #connection = null; // { ws, readyAt, error, retryAfter, timer }: replaced, never reused
  #queue = []; // { frames, text, attempts, seen, resolve, reject }; the first one is in flight if #frame is not null
  #frame = null; // the position in frames of the first message of what awaits its `next`
  #failures = 0;
  #retryTimer = null;
  #ready;

  /**
   * Connects at once.
   *
   * @param {string} [url] `ws://`, `wss://`, `http://` or `https://`, or relative to the page: `'/web'`, `'../web?room=7'`, `''`
   * @param {object} [options] see DEFAULTS
   * @throws {TypeError} an unknown option, a relative url outside a page, or no WebSocket class
   */
  constructor(url = '', options = {}) {
    for (const name of Object.keys(options)) {
      if (!(name in DEFAULTS)) throw new TypeError(`plugsocket: there is no option ${name}`);
    }
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...options };
    const { WebSocket, chunkSize } = this.#options;
    if (typeof WebSocket !== 'function') throw new TypeError('plugsocket: no WebSocket class here; pass one as the option WebSocket');
    if (chunkSize !== 0 && !(chunkSize >= 16)) throw new TypeError('plugsocket: chunkSize is 0 (never) or at least 16 bytes');
    this.#url = absolute(url);
    this.open();
  }

  /** The address that it connects to, `ws://` or `wss://`. */
  get url() {
    return this.#url;
  }

  /** This connection's uuid, or null while there is none. A new connection has a new uuid. */
  get uuid() {
    return this.#status.uuid ?? null;
  }

  /** `connecting`, `ready`, `waiting` (to connect again) or `closed`. */
  get status() {
    return this.#status.status;
  }

  /** A promise of the uuid: of this connection, or of the next one that becomes ready. Rejected when the socket is closed. */
  get ready() {
    return this.#ready.promise;
  }

  /** How many messages are not yet acknowledged. */
  get queued() {
    return this.#queue.length;
  }

  /**
   * Calls `listener` for each of them; returns a function that ends it.
   *
   * `on('status', ({status, uuid, error, closeCode, retryMs}) => …)` each change of the connection;
   * `on('message', packet => …)` everything that the application sends as text: a packet, or a string if it is no JSON object;
   * `on('binary', buffer => …)` a binary message, as ArrayBuffer;
   * `on(opcode, packet => …)` packets with this opcode.
   */
  on(name, listener) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.#listeners.get(name).delete(listener);
  }

  /**
   * Queues one message: an object (sent as JSON), a string (sent as it is), or an ArrayBuffer, a view of one or a Blob (sent as binary).
   *
   * The promise is fulfilled with the `fyi` of its `next`, and rejected with a PlugsocketError. A rejection that nobody
   * looks at is no unhandled rejection: a message may be sent and forgotten.
   */
  send(packet) {
    if (typeof packet === 'string') return this.#enqueue(() => packet);
    if (packet instanceof ArrayBuffer) packet = packet.slice(0);
    else if (ArrayBuffer.isView(packet)) packet = packet.buffer.slice(packet.byteOffset, packet.byteOffset + packet.byteLength);
    else if (!(packet instanceof Blob)) {
      const json = JSON.stringify(packet);
      if (json === undefined) throw new TypeError('plugsocket: send wants an object, a string or binary data');
      return this.#enqueue(() => json);
    }
    return this.#enqueue(() => packet);
  }

  /** To every browser but this one. */
  broadcast(message) {
    return this.send({ opcode: 'broadcast', message });
  }

  /**
   * To one connection: `to` is its uuid, or `{uuid}`, or `{ident}` for one that announced an ident.
   * The promise is fulfilled with `'delivered'` or `'gone'`.
   */
  feedback(to, message) {
    const target = typeof to === 'string' ? { uuid: to } : to;
    const json = JSON.stringify({ opcode: 'feedback', ...target, message });
    // The sender's uuid is that of the connection it goes out on, which may not be the one it was queued on.
    return this.#enqueue(() => `${json.slice(0, -1)},"fromUUID":${JSON.stringify(this.uuid)}}`);
  }

  /** Back to this connection; it arrives as a packet with the opcode `echo`. */
  echo(message) {
    return this.send({ opcode: 'echo', message });
  }

  /** Connects now: ends a wait, or opens a closed socket again. Does nothing while connected or connecting. */
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

  /** Closes for good (until `open`); what is not acknowledged by now is rejected. */
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
      promised.reject(new PlugsocketError('full', `${this.#options.maxQueued} messages are waiting already`));
    } else {
      this.#queue.push({ text, frames: null, attempts: 0, seen: false, ...promised });
      this.#pump();
    }
    return promised.promise;
  }

  /** Begins the first message, if the connection is ready and nothing is in flight. */
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
    // The application gets the message with its last frame; before that, nothing of it.
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
      // A dead network never answers a close frame, so its close event is not waited for.
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
    // 1000 without a time to come back: the application has ended the conversation, and nothing went wrong.
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

  // Delays are spread, so that the browsers of a restarted server do not come back all at once.

  #announcedDelay(seconds) {
    return Math.round(seconds * 1000 + Math.random() * this.#options.reconnectMinMs);
  }

  /** `isTurnedAway`: no such resource here, or not allowed. It may be mended one day, but not in a moment. */
  #backoff(isTurnedAway) {
    const { reconnectMinMs, reconnectMaxMs } = this.#options;
    const whole = isTurnedAway ? reconnectMaxMs : Math.min(reconnectMaxMs, reconnectMinMs * 2 ** this.#failures);
    return Math.round(whole * (0.5 + Math.random() / 2));
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
        // A listener's mistake is reported as its own, and stops neither the others nor the dialog.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/** The address as ws:// or wss://, read relative to the page. */
function absolute(url) {
  let address;
  try {
    address = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError(`plugsocket: ${JSON.stringify(url)} is no whole address, and there is no page that it is relative to`);
  }
  address.protocol = address.protocol.replace(/^http/, 'ws');
  address.hash = '';
  return address.href;
}

/** A JSON object, or null for any other text. */
function parsePacket(text) {
  if (!/^\s*\{/.test(text)) return null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * The messages that carry `message`: itself, or `bufferON`, chunks of at most `chunkSize` bytes of UTF-8, `bufferOFF`.
 * A chunk never ends inside a character, and never reads like one of the two marks.
 */
function inChunks(message, chunkSize) {
  const isMark = text => text === 'bufferON' || text === 'bufferOFF';
  if (typeof message !== 'string') return [message];
  const isLong = chunkSize > 0 && message.length * 3 > chunkSize && new TextEncoder().encode(message).length > chunkSize;
  if (!isLong && message !== 'bufferON') return [message];
  const bytes = new Uint8Array(chunkSize || 16);
  const chunks = [];
  for (let rest = message; rest !== ''; ) {
    const { read } = new TextEncoder().encodeInto(rest, bytes);
    const chunk = rest.slice(0, read);
    chunks.push(...(isMark(chunk) ? [chunk.slice(0, 6), chunk.slice(6)] : [chunk]));
    rest = rest.slice(read);
  }
  return ['bufferON', ...chunks, 'bufferOFF'];
}

/** A promise with its two ends; its rejection is not unhandled if nobody looks. */
function deferred() {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  promise.catch(() => {});
  return { promise, resolve, reject };
}
