/**
 * Mock host for tests of the client and of the page. Implements as much of the dialog and of the
 * bundled applications as they need, over WebSocket and HTTP POST, and serves /plugsocket/ with the
 * Content-Security-Policy of the host. docs/reference/ is the specification.
 *
 *     node tests/mock_host.js [port] [unmapped resources…]
 */
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';

const ROOT = new URL('../../../', import.meta.url);
const PAGE = {
  '/plugsocket/': ['host/page/index.html', 'text/html; charset=utf-8'],
  '/plugsocket/page.js': ['host/page/page.js', 'text/javascript; charset=utf-8'],
  '/plugsocket/page.css': ['host/page/page.css', 'text/css; charset=utf-8'],
  '/plugsocket/plugsocket.js': ['clients/js/plugsocket.js', 'text/javascript; charset=utf-8'],
};

const UUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\.[0-9a-f]{64}$/;

/** A uuid that no connection has. */
export const UNKNOWN_UUID = `00000000-0000-4000-8000-000000000000.${'0'.repeat(64)}`;

export class MockHost {
  /** Messages that reached an application, in order. */
  messages = [];
  /** Text frames that arrived, including chunks and chunk commands. */
  frames = [];
  connections = new Set();
  /**
   * Set by tests: whether to send `ready`, which messages to acknowledge, whether to send the first
   * heartbeat (no more follow), an action on connect, a status for handshakes.
   */
  sendsReady = true;
  acknowledges = () => true;
  heartbeats = true;
  onConnection = () => {};
  refuses = () => null;
  handshakes = 0;
  /** Further files to serve, without the Content-Security-Policy: path to { type, body }. */
  files = new Map();

  static async start({ port = 0, unmapped = [] } = {}) {
    const host = new MockHost();
    host.applications = { '/': feedback, '/web': feedback, '/php': feedback, '/chat': chat, '/talk': talk, '/locks': locks, '/jobs': jobs };
    for (const path of unmapped) delete host.applications[path];
    host.rooms = new Map();
    host.locks = new Map();
    host.jobs = new Map();
    host.http = createServer((request, response) => host.serve(request, response));
    const verifyClient = ({ req }, answer) => {
      host.handshakes += 1;
      const status = host.refuses(req);
      answer(status === null, status ?? 101);
    };
    host.wss = new WebSocketServer({ server: host.http, verifyClient });
    host.wss.on('connection', (ws, request) => host.accept(ws, request));
    await new Promise(resolve => host.http.listen(port, '127.0.0.1', resolve));
    host.port = host.http.address().port;
    return host;
  }

  url(path) {
    return `ws://127.0.0.1:${this.port}${path}`;
  }

  async stop() {
    for (const connection of this.connections) connection.ws.terminate();
    this.http.closeAllConnections();
    await new Promise(resolve => this.http.close(resolve));
  }

  accept(ws, request) {
    const { pathname, searchParams } = new URL(request.url, 'http://host');
    const id = randomUUID();
    const uuid = `${id}.${createHash('sha256').update(id).digest('hex')}`;
    const send = packet => ws.send(typeof packet === 'string' ? packet : JSON.stringify(packet));
    const connection = { ws, uuid, send, query: searchParams, headers: request.headers, fyi: '', chunks: null };
    const application = this.applications[pathname];
    if (!application) {
      send({ opcode: 'close', error: `no application is mapped to ${pathname}` });
      return ws.close(1008);
    }
    this.connections.add(connection);
    ws.on('close', () => {
      this.connections.delete(connection);
      application.close?.(this, connection);
    });
    ws.on('message', (bytes, isBinary) => this.take(connection, application, isBinary ? bytes : bytes.toString()));
    this.onConnection(connection);
    if (this.sendsReady && ws.readyState === ws.OPEN) {
      send({ opcode: 'ready', uuid });
      if (this.heartbeats && searchParams.has('heartbeat')) send({ opcode: 'heartbeat' });
    }
    application.open?.(this, connection);
  }

  take(connection, application, message) {
    const isText = typeof message === 'string';
    if (isText) this.frames.push(message);
    if (message === 'bufferON') connection.chunks = [];
    else if (message === 'bufferOFF' && connection.chunks) {
      message = connection.chunks.join('');
      connection.chunks = null;
      this.handle(connection, application, message);
    } else if (connection.chunks) connection.chunks.push(message);
    else this.handle(connection, application, message);
    if (this.acknowledges(message)) connection.send({ opcode: 'next', fyi: connection.fyi });
    connection.fyi = '';
  }

  handle(connection, application, message) {
    this.messages.push(message);
    if (typeof message !== 'string') return connection.ws.send(message);
    if (application.text) return application.text(connection, message);
    try {
      application.packet(this, connection, JSON.parse(message));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      connection.send({ opcode: 'close', error: 'no JSON' });
      connection.ws.close(1007);
    }
  }

  serve(request, response) {
    const { pathname } = new URL(request.url, 'http://host');
    const file = PAGE[pathname];
    if (request.method === 'POST' && this.applications[pathname]) return this.post(request, response, this.applications[pathname]);
    const { type, body } = this.files.get(pathname) ?? {};
    if (type) return response.writeHead(200, { 'Content-Type': type }).end(body);
    if (!file) return response.writeHead(404).end('not found');
    const headers = { 'Content-Type': file[1], 'Content-Security-Policy': "default-src 'self'", 'Cache-Control': 'no-store' };
    response.writeHead(200, headers).end(readFileSync(new URL(file[0], ROOT)));
  }

  async post(request, response, application) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const poster = { uuid: '', fyi: '', send() {}, ws: { close() {} } };
    this.handle(poster, application, Buffer.concat(chunks).toString());
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify({ opcode: 'next', fyi: poster.fyi }));
  }
}

const feedback = {
  packet(host, from, packet) {
    const others = [...host.connections].filter(connection => connection !== from);
    if (packet.opcode === 'broadcast') for (const other of others) other.send(packet);
    if (packet.opcode === 'echo') from.send(packet);
    if (packet.opcode === 'quit') from.ws.close(1000);
    if (packet.opcode !== 'feedback') return;
    const to = [...host.connections].find(({ uuid, headers }) => (packet.uuid ? uuid === packet.uuid : headers.ident === packet.ident));
    to?.send(packet);
    const isMalformed = packet.uuid && !UUID.test(packet.uuid);
    from.fyi = to ? 'delivered' : isMalformed ? 'malformed uuid' : 'gone';
  },
};

const talk = {
  text(connection, text) {
    if (text.trim().toLowerCase() === 'date') return connection.send(new Date().toISOString().slice(0, 10));
    if (text.trim().toLowerCase() !== 'bye') return connection.send(`you said: ${text}`);
    connection.send('good bye');
    connection.ws.close(1000);
  },
};

const escaped = text => String(text).replace(/[<>&"']/g, character => ({ '<': '&lt;', '>': '&gt;', '&': '&amp;', '"': '&quot;', "'": '&#39;' })[character]);

const chat = {
  open(host, connection) {
    connection.room = escaped(connection.query.get('room') || 'lobby');
    connection.name = escaped(connection.query.get('name') || `guest-${connection.uuid.slice(0, 4)}`);
    this.tell(host, connection.room, { type: 'system', message: '127.0.0.1 connected' });
  },
  close(host, connection) {
    this.tell(host, connection.room, { type: 'system', message: '127.0.0.1 disconnected' });
  },
  packet(host, from, packet) {
    if (packet.opcode === 'join') {
      from.room = escaped(packet.room);
      from.name = escaped(packet.name || from.name);
      const members = this.members(host, from.room).map(({ name }) => name);
      from.send({ type: 'joined', room: from.room, name: from.name, members });
      const others = this.members(host, from.room).filter(member => member !== from);
      for (const other of others) other.send({ type: 'system', message: `${from.name} joined` });
    } else if (packet.opcode === 'name') {
      this.tell(host, from.room, { type: 'system', message: `${from.name} is now ${escaped(packet.name)}` });
      from.name = escaped(packet.name);
    } else if (typeof packet.message === 'string') {
      if (packet.name) from.name = escaped(packet.name);
      this.tell(host, from.room, { type: 'usermsg', name: from.name, message: escaped(packet.message), color: packet.color });
    } else from.send({ type: 'error', message: 'a message needs the text message' });
  },
  members: (host, room) => [...host.connections].filter(connection => connection.room === room),
  tell(host, room, packet) {
    for (const member of this.members(host, room)) member.send(packet);
  },
};

const locks = {
  open(host, connection) {
    connection.holder = connection.query.get('holder') || connection.uuid;
    connection.holderName = connection.query.get('name') || connection.holder;
  },
  close(host, { holder }) {
    setTimeout(() => {
      if ([...host.connections].some(connection => connection.holder === holder)) return;
      const ids = [...host.locks].filter(([, by]) => by.holder === holder).map(([id]) => id);
      this.release(host, holder, ids);
    }, 1000).unref();
  },
  packet(host, from, { opcode, ids = [] }) {
    const isOthers = id => host.locks.has(id) && host.locks.get(id).holder !== from.holder;
    const mine = () => [...host.locks].filter(([, by]) => by.holder === from.holder).map(([id]) => id);
    const asked = opcode === 'list' ? [...host.locks.keys()] : ids;
    if (opcode === 'lock') {
      const free = ids.filter(id => !host.locks.has(id));
      for (const id of free) host.locks.set(id, { holder: from.holder, name: from.holderName });
      if (free.length) this.tellOthers(host, from.holder, { opcode: 'locked', ids: free, by: from.holderName });
    }
    if (opcode === 'unlock') this.release(host, from.holder, ids.length ? ids.filter(id => mine().includes(id)) : mine());
    const locked = asked.filter(isOthers).map(id => ({ id, by: host.locks.get(id).name }));
    from.send({ opcode: 'locks', mine: mine(), locked });
  },
  release(host, holder, ids) {
    for (const id of ids) host.locks.delete(id);
    if (ids.length) this.tellOthers(host, holder, { opcode: 'unlocked', ids });
  },
  tellOthers(host, holder, packet) {
    for (const other of host.connections) if (other.holder && other.holder !== holder) other.send(packet);
  },
};

const jobs = {
  packet(host, from, packet) {
    const { opcode, job } = packet;
    if (opcode === 'start' || opcode === 'demo') {
      const id = randomUUID();
      host.jobs.set(id, { state: 'unknown', watchers: new Set([from]), began: Date.now() });
      from.send({ opcode: 'job', job: id });
      if (opcode === 'demo') this.play(host, id, packet.seconds, 0);
    } else if (opcode === 'watch') {
      host.jobs.get(job)?.watchers.add(from);
      from.send(this.state(host, job));
    } else if (opcode === 'abort') {
      if (host.jobs.get(job)?.state === 'running') this.report(host, job, { state: 'aborting' });
    } else {
      const isAborting = host.jobs.get(job)?.state === 'aborting';
      if (!host.jobs.has(job)) host.jobs.set(job, { watchers: new Set(), began: Date.now() });
      const { text, percent } = packet;
      this.report(host, job, { text, percent, state: opcode !== 'progress' ? opcode : isAborting ? 'aborting' : 'running' });
      from.fyi = isAborting ? 'abort' : host.jobs.get(job).watchers.size ? 'watched' : 'unwatched';
    }
  },
  play(host, id, seconds, tenths) {
    const job = host.jobs.get(id);
    if (job.state === 'aborting') return this.report(host, id, { state: 'aborted', text: 'stopped on request' });
    if (tenths === 10) return this.report(host, id, { state: 'done', text: 'the demo is over', percent: 100 });
    this.report(host, id, { state: 'running', text: `step ${tenths + 1} of 10`, percent: tenths * 10 });
    setTimeout(() => this.play(host, id, seconds, tenths + 1), seconds * 100).unref();
  },
  report(host, id, news) {
    Object.assign(host.jobs.get(id), JSON.parse(JSON.stringify(news)));
    for (const watcher of host.jobs.get(id).watchers) if (host.connections.has(watcher)) watcher.send(this.state(host, id));
  },
  state(host, id) {
    const { state = 'unknown', text = '', percent = 0, began } = host.jobs.get(id) ?? {};
    return { opcode: 'progress', job: id, state, text, percent, elapsed: began ? (Date.now() - began) / 1000 : 0 };
  },
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [port = '8095', ...unmapped] = process.argv.slice(2);
  const host = await MockHost.start({ port: Number(port), unmapped });
  console.log(`http://127.0.0.1:${host.port}/plugsocket/`);
}
