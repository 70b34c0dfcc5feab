/**
 * JavaScript client of plugsocket, for browsers and Node: one file, no dependencies, no build step.
 *
 * Manages one connection to one resource, a queue of outgoing messages, and reconnects. Implements
 * the dialog (`ready`, `next`, `close`); the meaning of packets is left to the application.
 *
 *     import { Plugsocket } from '/plugsocket/plugsocket.js';
 *     const socket = new Plugsocket('/web');
 *     socket.on('status', ({ status, error }) => console.log(status, error ?? ''));
 *     socket.on('feedback', packet => console.log(packet.message));
 *     const verdict = await socket.feedback(uuid, '50 %');   // 'delivered' or 'gone'
 */

/** Default options. Durations are in milliseconds; 0 disables a timeout. */
const DEFAULTS = {
  /** The WebSocket class. Node before 22 has no global one: `import WebSocket from 'ws'`. */
  WebSocket: undefined,
  /** Subprotocols to offer; or a function, see `url`. */
  protocols: [],
  /** Sent as `Authorization: Bearer TOKEN`, which pages cannot; or a function, see `url`. */
  token: undefined,
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
  /** Ends after so many refusals (1008, HTTP 4xx) of the same URL, protocols and token; 0: never. */
  refusedAttempts: 3,
  /** Rejects `ready` (`timeout`) when no connection is ready within this time; attempts continue. */
  readyDeadlineMs: 30_000,
  /** Closes a connection that is not `ready` within this time. */
  readyTimeoutMs: 10_000,
  /** Closes a connection that does not acknowledge a message within this time. */
  acknowledgeTimeoutMs: 60_000,
  /** Asks the host for a heartbeat when it is silent for this long, 1 s to 600 s; 0: none. */
  heartbeatMs: 25_000,
  /** AbortSignal that closes the socket for good. */
  signal: undefined,
};

/** Event names of this class: packets with such an opcode are delivered as `message` only. */
const OWN_EVENTS = new Set(['status', 'message', 'binary']);

/** A connection that was ready for this long resets the backoff to `reconnectMinMs`. */
const STABLE_MS = 5_000;

/** Time in which the messages that a frozen page has missed are delivered. */
const THAW_MS = 1_000;

/** What is wrong where no dialog begins. */
const PLAIN = 'this resource has dialog = false; use a plain WebSocket or set dialog = true';

/** How `ws` reports that the host refuses the request itself; 408 and 429 are worth another try. */
const REFUSED_BY_HTTP = /^Unexpected server response: 4(?!08|29)\d\d$/;

/** How often to resend a message whose chunks were not all sent: the application saw none of it. */
const RESEND_UNSEEN = 3;

/** Close codes that refuse the message itself (RFC 6455): invalid data, policy, too big. */
const REFUSED = new Set([1007, 1008, 1009]);

/**
 * Reason why a message was not acknowledged. `code` is
 * `full` (not sent: `maxQueued` messages are waiting), `closed` (not sent: the socket was closed),
 * `lost` (sent, but the connection ended before its `next`: it may have been handled) or
 * `refused` (the server closed the connection because of it, with `closeCode` 1007, 1008 or 1009).
 * `ready` is rejected with `refused` (the server refuses this URL, protocols and token), `timeout`
 * (not ready within `readyDeadlineMs`) or `closed`; attempts continue after the first two.
 * `packet` is rejected with `closed`, and `packets` with `full` (too many packets are waiting).
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
  #source; // the URL, or the function that returns it
  #url = null;
  #options;
  #listeners = new Map();
  #status = { status: 'closed' };
  #connection = null; // a new object for each connection, see open
  #queue = []; // { frames, text, attempts, seen, resolve, reject }; see #frame for the first one
  #frame = null; // index of the frame of the first message that awaits its `next`; null: none
  #failures = 0;
  #refusals = { attempt: null, count: 0 }; // what was refused, and how often in a row
  #retryTimer = null;
  #ready;
  #readyTimer = null;
  #lastFailure = null; // { error, closeCode } of the last attempt
  #isAnnounced = false; // whether the host has said when to reconnect
  #forgetSignal = () => {}; // removes the listener of the option `signal`

  /**
   * Connects immediately.
   *
   * `url`, `protocols` and `token` may be functions, also async ones. They are called for each attempt
   * to connect; an exception counts as a failed attempt.
   *
   * @param {string | (() => string | Promise<string>)} [url] absolute, or relative to the page:
   *     `'/web'`, `'../web?room=7'`, `''`
   * @param {object} [options] see DEFAULTS
   * @throws {TypeError} invalid option, relative URL outside a page, or no WebSocket class
   * @throws the reason of the option `signal`, if that is aborted already
   */
  constructor(url = '', options = {}) {
    for (const name of Object.keys(options)) {
      if (!(name in DEFAULTS)) throw new TypeError(`plugsocket: there is no option ${name}`);
    }
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...options };
    const { WebSocket, chunkSize, heartbeatMs, token } = this.#options;
    if (typeof WebSocket !== 'function') throw new TypeError('plugsocket: no global WebSocket; pass a class as the option WebSocket');
    if (chunkSize !== 0 && !(chunkSize >= 16)) throw new TypeError('plugsocket: chunkSize must be 0 (never) or at least 16 bytes');
    if (heartbeatMs !== 0 && !(heartbeatMs >= 1000 && heartbeatMs <= 600_000)) {
      throw new TypeError('plugsocket: heartbeatMs must be 0 (none) or from 1000 to 600000 milliseconds');
    }
    if (token !== undefined && WebSocket === globalThis.WebSocket && globalThis.document) {
      throw new TypeError("plugsocket: a page cannot send the header Authorization; use the option protocols: ['bearer', token]");
    }
    this.#source = url;
    if (typeof url !== 'function') this.#url = this.#checked(url);
    this.open();
  }

  /** The URL of the resource, `ws:` or `wss:`; null before a function has returned the first one. */
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

  /**
   * Promise of the uuid of this connection, or of the next one. Rejected by a close, by a refusal,
   * and after `readyDeadlineMs`; after the last two this is a new promise, as attempts continue.
   */
  get ready() {
    return this.#ready.promise;
  }

  /** Like `ready`; a signal ends the wait with its reason, and leaves the connection alone. */
  whenReady({ signal } = {}) {
    const promised = deferred();
    const forget = onAbort(signal, promised.reject);
    this.ready.then(promised.resolve, promised.reject).then(forget);
    return promised.promise;
  }

  /** Number of messages that are not acknowledged. */
  get queued() {
    return this.#queue.length;
  }

  /**
   * Adds a listener; returns a function that removes it. A signal removes it, too.
   *
   * `on('status', ({status, uuid, error, closeCode, retryMs}) => …)`: changes of the connection;
   * `on('message', packet => …)`: every text message; a string if it is not a JSON object;
   * `on('binary', buffer => …)`: every binary message, as ArrayBuffer;
   * `on(opcode, packet => …)`: packets with this opcode.
   */
  on(name, listener, { signal } = {}) {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    const listeners = this.#listeners.get(name).add(listener);
    const remove = () => listeners.delete(listener);
    const forget = onAbort(signal, remove);
    return () => (forget(), remove());
  }

  /**
   * Promise of the next value that `on(name)` would receive. Rejected when the socket is closed and
   * when the signal is aborted. Ignoring it never causes an unhandled rejection.
   */
  packet(name, { signal } = {}) {
    const promised = deferred();
    const packets = this.packets(name, { signal });
    packets.next().then(({ value, done }) => {
      packets.return();
      if (!done) return promised.resolve(value);
      const { error = 'the socket is closed', closeCode } = this.#status;
      promised.reject(new PlugsocketError('closed', error, closeCode));
    }, promised.reject);
    return promised.promise;
  }

  /**
   * Async iterator over the values that `on(name)` would receive from now on. A loop ends when the
   * socket is closed, and removes the listener when it ends. It throws the reason of an aborted
   * signal, and `full` after `maxBuffered` values if more are waiting for it.
   */
  packets(name, { signal, maxBuffered = 1000 } = {}) {
    return packetIterator(maxBuffered, ({ push, end, cancel }) => {
      const stops = [this.on(name, push), this.on('status', ({ status }) => status === 'closed' && end())];
      stops.push(onAbort(signal, cancel));
      if (this.#status.status === 'closed') end();
      return () => stops.forEach(stop => stop());
    });
  }

  /**
   * Queues one message: an object (sent as JSON), a string (sent unchanged), or an ArrayBuffer, a
   * view or a Blob (sent as binary).
   *
   * The promise is fulfilled with the `fyi` of the acknowledgement, or rejected with a
   * PlugsocketError. Ignoring it never causes an unhandled rejection. A signal rejects it with its
   * reason, and takes the message out of the queue unless it is being sent.
   */
  send(packet, options) {
    if (typeof packet === 'string') return this.#enqueue(() => packet, options);
    if (packet instanceof ArrayBuffer) packet = packet.slice(0);
    else if (ArrayBuffer.isView(packet)) packet = packet.buffer.slice(packet.byteOffset, packet.byteOffset + packet.byteLength);
    else if (!(packet instanceof Blob)) {
      const json = JSON.stringify(packet);
      if (json === undefined) throw new TypeError('plugsocket: send takes an object, a string or binary data');
      return this.#enqueue(() => json, options);
    }
    return this.#enqueue(() => packet, options);
  }

  /** Sends to every browser except this one. */
  broadcast(message, options) {
    return this.send({ opcode: 'broadcast', message }, options);
  }

  /**
   * Sends to one connection; `to` is its uuid, `{uuid}`, or `{ident}` as it announced it.
   * The promise is fulfilled with `'delivered'` or `'gone'`.
   */
  feedback(to, message, options) {
    const target = typeof to === 'string' ? { uuid: to } : to;
    const json = JSON.stringify({ opcode: 'feedback', ...target, message });
    // Evaluated when it is sent: a reconnect may have changed the uuid since it was queued.
    return this.#enqueue(() => `${json.slice(0, -1)},"fromUUID":${JSON.stringify(this.uuid)}}`, options);
  }

  /** Sends to this connection itself; arrives as a packet with the opcode `echo`. */
  echo(message, options) {
    return this.send({ opcode: 'echo', message }, options);
  }

  /** Connects now: ends a wait, or opens a closed socket again. No effect while connected. */
  open() {
    if (this.#connection) return;
    clearTimeout(this.#retryTimer);
    if (this.#status.status === 'closed') {
      this.#options.signal?.throwIfAborted();
      this.#forgetSignal = onAbort(this.#options.signal, () => this.close());
      this.#refusals.count = 0;
      this.#awaitReady();
      for (const [target, name] of wakeEvents()) target.addEventListener(name, this.#wake);
    }
    const connection = {
      ws: null,
      attempt: null, // what to compare with a refused one
      readyAt: null,
      heardAt: 0, // when the last message came
      error: null,
      retryAfter: null,
      timer: null, // for `ready`, then for acknowledgements
      silence: null, // timer that runs once a heartbeat came
    };
    this.#connection = connection;
    this.#giveUpAfter(this.#options.readyTimeoutMs, within => this.#notReady(within));
    this.#change({ status: 'connecting' });
    this.#dial(connection).catch(error => {
      if (this.#connection !== connection) return;
      connection.error = error?.message || String(error);
      this.#lost(undefined, '');
    });
  }

  /** Closes until `open` is called, and rejects all messages that are not acknowledged. */
  close(code = 1000, reason = '') {
    const { ws } = this.#detach() ?? {};
    ws?.close(code, reason);
    if (this.#frame !== null) this.#rejectFirst('lost', 'closed before it was acknowledged');
    this.#end({ status: 'closed' }, 'the socket was closed');
  }

  // Queue

  #enqueue(text, { signal } = {}) {
    const promised = deferred();
    if (signal?.aborted) {
      promised.reject(signal.reason);
    } else if (this.#status.status === 'closed') {
      promised.reject(new PlugsocketError('closed', 'the socket is closed'));
    } else if (this.#queue.length >= this.#options.maxQueued) {
      promised.reject(new PlugsocketError('full', `${this.#options.maxQueued} messages are already waiting`));
    } else {
      const entry = { text, frames: null, attempts: 0, seen: false, ...promised };
      const forget = onAbort(signal, reason => this.#withdraw(entry, reason));
      promised.promise.then(forget, forget);
      this.#queue.push(entry);
      this.#pump();
    }
    return promised.promise;
  }

  #withdraw(entry, reason) {
    entry.reject(reason);
    const position = this.#queue.indexOf(entry);
    // What is being sent still awaits its `next`; it is not sent again on another connection.
    if (position === 0 && this.#frame !== null) entry.attempts = Infinity;
    else if (position >= 0) this.#queue.splice(position, 1);
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
    this.#giveUpAfter(this.#options.acknowledgeTimeoutMs, within => `no acknowledgement from the server ${within}`);
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

  async #dial(connection) {
    const { WebSocket } = this.#options;
    // An async function turns an exception into a rejection.
    const attempt = await Promise.all(this.#sources().map(async source => (typeof source === 'function' ? source() : source)));
    if (this.#connection !== connection) return;
    connection.attempt = JSON.stringify(attempt);
    this.#url = this.#checked(attempt[0]);
    const ws = connect(WebSocket, withHeartbeat(this.#url, this.#options.heartbeatMs), attempt[1], attempt[2]);
    connection.ws = ws;
    ws.binaryType = 'arraybuffer';
    const whileCurrent = react => event => {
      if (this.#connection === connection) react(event);
    };
    ws.addEventListener('message', whileCurrent(event => this.#receive(event.data)));
    ws.addEventListener('error', whileCurrent(event => (connection.error ??= event.message || null)));
    ws.addEventListener('close', whileCurrent(event => this.#lost(event.code, event.reason)));
  }

  #sources() {
    return [this.#source, this.#options.protocols, this.#options.token];
  }

  /** Returns the absolute URL. The host reserves one parameter of the query. */
  #checked(url) {
    const address = absolute(url);
    if (this.#options.heartbeatMs !== 0 && new URL(address).searchParams.has('heartbeat')) {
      throw new TypeError('plugsocket: the query parameter heartbeat is reserved; use the option heartbeatMs');
    }
    return address;
  }

  #receive(data) {
    this.#heard();
    const packet = typeof data === 'string' ? parsePacket(data) : null;
    const { opcode } = packet ?? {};
    if (opcode === 'ready') this.#becomeReady(packet.uuid);
    else if (opcode === 'close') this.#announcedClose(packet);
    else if (this.#connection.readyAt === null) this.#isPlain();
    else if (opcode === 'next') this.#acknowledged(packet.fyi);
    else if (opcode === 'heartbeat' && this.#options.heartbeatMs !== 0) this.#watchSilence();
    else if (typeof data !== 'string') this.#emit('binary', data);
    else {
      if (typeof opcode === 'string' && !OWN_EVENTS.has(opcode)) this.#emit(opcode, packet);
      this.#emit('message', packet ?? data);
    }
  }

  #becomeReady(uuid) {
    clearTimeout(this.#connection.timer);
    clearTimeout(this.#readyTimer);
    this.#connection.readyAt = Date.now();
    this.#refusals.count = 0;
    this.#change({ status: 'ready', uuid });
    this.#ready.resolve(uuid);
    this.#pump();
  }

  /** Makes a new promise `ready`, which is settled within `readyDeadlineMs`. */
  #awaitReady() {
    this.#ready = deferred();
    const { readyDeadlineMs } = this.#options;
    clearTimeout(this.#readyTimer);
    if (readyDeadlineMs === 0) return;
    this.#readyTimer = setTimeout(() => {
      const { reject } = this.#ready;
      const { error, closeCode } = this.#lastFailure ?? { error: this.#notReady('yet') };
      this.#awaitReady();
      reject(new PlugsocketError('timeout', `not ready within ${readyDeadlineMs / 1000} s: ${error}`, closeCode));
    }, readyDeadlineMs);
  }

  #notReady(within) {
    const { ws } = this.#connection;
    if (ws === null) return `no URL, protocols or token from its function ${within}`;
    // An application that is stuck looks the same as a plain resource.
    const advice = ws.readyState === 1 ? `: perhaps ${PLAIN}` : '';
    return `no ready from the server ${within}${advice}`;
  }

  /** In a dialog no message precedes `ready`, so another attempt would end in the same way. */
  #isPlain() {
    this.#detach().ws.close();
    this.#end({ status: 'closed', error: PLAIN }, PLAIN);
  }

  #announcedClose({ error, retry_after: retryAfter }) {
    this.#connection.error = String(error ?? '');
    if (retryAfter >= 0) this.#connection.retryAfter = Number(retryAfter);
  }

  #giveUpAfter(milliseconds, what) {
    const connection = this.#connection;
    clearTimeout(connection.timer);
    if (milliseconds === 0) return;
    connection.timer = setTimeout(() => this.#giveUp(what(`within ${milliseconds / 1000} s`)), milliseconds);
  }

  #giveUp(error) {
    const { ws } = this.#connection;
    this.#connection.error = error;
    // On a dead network the close event may never come, so do not wait for it.
    ws?.close();
    this.#lost(1006, '');
  }

  // Signs of life: the host pings, which no page sees, and sends heartbeats for the client.

  #heard() {
    const connection = this.#connection;
    connection.heardAt = Date.now();
    if (connection.silence !== null) this.#watchSilence();
  }

  /** Runs after the first heartbeat only: an older host sends none, and may be silent. */
  #watchSilence() {
    clearTimeout(this.#connection.silence);
    this.#connection.silence = setTimeout(() => this.#thaw(), this.#maxSilence());
  }

  #maxSilence() {
    return 2000 * heartbeatSeconds(this.#options.heartbeatMs);
  }

  /** Timers and messages of a frozen page are late, in any order. */
  #thaw() {
    const error = `no sign of life from the server within ${this.#maxSilence() / 1000} s`;
    clearTimeout(this.#connection.silence);
    this.#connection.silence = setTimeout(() => this.#giveUp(error), THAW_MS);
  }

  /** The network or the page is back, or the network is gone: ends a wait, checks a connection. */
  #wake = ({ type }) => {
    if (type === 'visibilitychange' && globalThis.document.visibilityState === 'hidden') return;
    const { status } = this.#status;
    if (status === 'waiting' && !this.#isAnnounced) this.open();
    const { silence, heardAt } = this.#connection ?? {};
    if (status === 'ready' && silence !== null && Date.now() - heardAt > this.#maxSilence()) this.#thaw();
  };

  #detach() {
    const connection = this.#connection;
    this.#connection = null;
    clearTimeout(connection?.timer);
    clearTimeout(connection?.silence);
    return connection;
  }

  #lost(closeCode, reason) {
    const { readyAt, error, retryAfter, attempt } = this.#detach();
    const why = { error: error || reason || (closeCode === 1000 ? 'closed by the server' : 'connection lost'), closeCode };
    if (readyAt !== null && Date.now() - readyAt >= STABLE_MS) this.#failures = 0;
    if (this.#frame !== null) this.#lostInFlight(why);
    // 1000 without retry_after: the application has ended the conversation.
    const isEnd = closeCode === 1000 && retryAfter === null;
    if (isEnd || !this.#options.reconnect) return this.#end({ status: 'closed', ...why }, why.error);
    // No code: the WebSocket class itself does not take this URL or these protocols.
    const isRefusal = closeCode === 1008 || (closeCode === undefined && attempt !== null) || REFUSED_BY_HTTP.test(why.error);
    const refusals = isRefusal && readyAt === null && retryAfter === null ? this.#countRefusals(attempt) : 0;
    if (refusals > 0 && refusals === this.#options.refusedAttempts) return this.#end({ status: 'closed', ...why }, why.error);
    // A function may return something better the next time; the same would be refused again.
    const isHopeless = refusals > 1 || (refusals === 1 && !this.#sources().some(source => typeof source === 'function'));
    if (isHopeless) this.#ready.reject(new PlugsocketError('refused', why.error, closeCode));
    if (isHopeless || readyAt !== null) this.#awaitReady();
    const retryMs = retryAfter !== null ? this.#announcedDelay(retryAfter) : this.#backoff(isHopeless || isOffline());
    // A failure without a network says nothing about the host: `online` starts with short waits.
    if (!isOffline()) this.#failures += 1;
    this.#lastFailure = why;
    this.#isAnnounced = retryAfter !== null;
    this.#retryTimer = setTimeout(() => this.open(), retryMs);
    this.#change({ status: 'waiting', ...why, retryMs });
  }

  /** Returns how often in a row this attempt was refused. */
  #countRefusals(attempt) {
    if (this.#refusals.attempt !== attempt) this.#refusals = { attempt, count: 0 };
    return (this.#refusals.count += 1);
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

  /** Exponential backoff. `isLongest`: as after many failures. */
  #backoff(isLongest) {
    const { reconnectMinMs, reconnectMaxMs } = this.#options;
    const wait = isLongest ? reconnectMaxMs : Math.min(reconnectMaxMs, reconnectMinMs * 2 ** this.#failures);
    return Math.round(wait * (0.5 + Math.random() / 2));
  }

  #end(status, why) {
    this.#failures = 0;
    this.#lastFailure = null;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#readyTimer);
    this.#forgetSignal();
    for (const [target, name] of wakeEvents()) target.removeEventListener(name, this.#wake);
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

function heartbeatSeconds(milliseconds) {
  return Math.ceil(milliseconds / 1000);
}

/** Asks the host for heartbeats. Keeps the rest of the query byte for byte. */
function withHeartbeat(url, milliseconds) {
  if (milliseconds === 0) return url;
  return `${url}${url.includes('?') ? '&' : '?'}heartbeat=${heartbeatSeconds(milliseconds)}`;
}

/** The class of Node itself takes headers in place of the protocols; `ws` as a third argument. */
function connect(WebSocket, url, protocols, token) {
  if (token === undefined) return new WebSocket(url, protocols);
  const headers = { Authorization: `Bearer ${token}` };
  return WebSocket === globalThis.WebSocket ? new WebSocket(url, { protocols, headers }) : new WebSocket(url, protocols, { headers });
}

/** Returns where a page, or a worker, reports that its network has changed or that it is seen again. */
function wakeEvents() {
  const events = [[globalThis, 'online'], [globalThis, 'offline'], [globalThis.document, 'visibilitychange']];
  return events.filter(([target]) => typeof target?.addEventListener === 'function');
}

/** Whether the browser has no network. A host on the same machine may still be reachable. */
function isOffline() {
  return globalThis.navigator?.onLine === false;
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

/** Calls `react` with the reason when the signal is aborted; returns a function that stops this. */
function onAbort(signal, react) {
  if (!signal) return () => {};
  const listener = () => react(signal.reason);
  if (signal.aborted) listener();
  else signal.addEventListener('abort', listener, { once: true });
  return () => signal.removeEventListener('abort', listener);
}

/**
 * Returns an async iterator over what `subscribe` pushes. An async generator would not do: its
 * `return` waits for a pending `next`, and does nothing before the first one.
 */
function packetIterator(maxBuffered, subscribe) {
  const done = { value: undefined, done: true };
  const waiting = []; // functions that settle the promise of a later `next`
  const asked = []; // promises of `next` that wait for a packet
  let isOver = false;
  let unsubscribe;
  const deliver = settle => (asked.length > 0 ? settle(asked.shift()) : waiting.push(settle));
  const end = (...errors) => {
    if (isOver) return;
    isOver = true;
    unsubscribe?.();
    for (const error of errors) deliver(({ reject }) => reject(error));
    for (const { resolve } of asked.splice(0)) resolve(done);
  };
  const push = value => {
    if (isOver) return;
    if (asked.length > 0 || waiting.length < maxBuffered) deliver(({ resolve }) => resolve({ value, done: false }));
    else end(new PlugsocketError('full', `${maxBuffered} packets are already waiting`));
  };
  const cancel = (...errors) => {
    waiting.length = 0;
    end(...errors);
  };
  const next = () => {
    const promised = deferred();
    if (waiting.length > 0) waiting.shift()(promised);
    else if (isOver) promised.resolve(done);
    else asked.push(promised);
    return promised.promise;
  };
  unsubscribe = subscribe({ push, end, cancel });
  if (isOver) unsubscribe();
  const iterator = { next, return: async () => (cancel(), done), [Symbol.asyncIterator]: () => iterator };
  return iterator;
}
