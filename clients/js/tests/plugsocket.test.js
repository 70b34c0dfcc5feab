import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Plugsocket, PlugsocketError } from '../plugsocket.js';
import { MockHost, UNKNOWN_UUID } from './mock_host.js';

const TIMEOUT = { timeout: 10_000 };

/** Starts a mock host; closes it, and the sockets connected to it, at the end of the test. */
async function setUp(t, options) {
  const host = await MockHost.start(options);
  const sockets = [];
  t.after(async () => {
    for (const socket of sockets) socket.close();
    await host.stop();
  });
  // `path` may be a function, as for the client.
  const connect = (path, socketOptions) => {
    const url = typeof path !== 'function' ? host.url(path) : async () => {
      const found = await path();
      return found.startsWith('/') ? host.url(found) : found;
    };
    const socket = new Plugsocket(url, { WebSocket, reconnectMinMs: 20, reconnectMaxMs: 100, ...socketOptions });
    sockets.push(socket);
    return socket;
  };
  return { host, connect };
}

const nextOf = (socket, name) =>
  new Promise(resolve => {
    const end = socket.on(name, value => (end(), resolve(value)));
  });

const statusOf = (socket, status) =>
  new Promise(resolve => {
    const end = socket.on('status', change => change.status === status && (end(), resolve(change)));
  });

const codeOf = promise => promise.then(() => 'fulfilled', error => error.code);

test('ready resolves to the uuid', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web');
  assert.equal(socket.uuid, null);
  assert.equal(socket.status, 'connecting');
  const uuid = await socket.ready;
  assert.equal(uuid, [...host.connections][0].uuid);
  assert.equal(socket.uuid, uuid);
  assert.equal(socket.status, 'ready');
});

test('messages sent before ready arrive in order, each after the previous acknowledgement', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  let open = 0;
  let most = 0;
  host.acknowledges = () => {
    most = Math.max(most, (open += 1));
    setTimeout(() => {
      open -= 1;
      [...host.connections][0].send({ opcode: 'next', fyi: '' });
    }, 2);
    return false;
  };
  const socket = connect('/web');
  await Promise.all(Array.from({ length: 20 }, (_, number) => socket.send({ opcode: 'none', number })));
  assert.deepEqual(host.messages.map(text => JSON.parse(text).number), Array.from({ length: 20 }, (_, number) => number));
  assert.equal(most, 1);
  assert.equal(socket.queued, 0);
});

test('broadcast reaches all others, feedback one client, echo the sender', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  const [one, two] = [connect('/web'), connect('/web')];
  await Promise.all([one.ready, two.ready]);
  one.on('broadcast', () => assert.fail('the sender got its own broadcast'));

  const broadcast = nextOf(two, 'broadcast');
  assert.equal(await one.broadcast('to all'), '');
  assert.equal((await broadcast).message, 'to all');

  const feedback = nextOf(two, 'feedback');
  assert.equal(await one.feedback(two.uuid, { percent: 50 }), 'delivered');
  assert.deepEqual(await feedback, { opcode: 'feedback', uuid: two.uuid, message: { percent: 50 }, fromUUID: one.uuid });
  assert.equal(await one.feedback({ uuid: UNKNOWN_UUID }, ''), 'gone');
  assert.equal(await one.feedback('nobody', ''), 'malformed uuid');
  assert.equal(await one.feedback({ ident: 'nobody' }, ''), 'gone');

  const echo = nextOf(one, 'echo');
  await one.echo('Grüße');
  assert.equal((await echo).message, 'Grüße');
});

test('feedback by ident reaches the connection that announced it', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  class WithIdent extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { headers: { Ident: 'printer' } });
    }
  }
  const printer = connect('/web', { WebSocket: WithIdent });
  await printer.ready;
  const feedback = nextOf(printer, 'feedback');
  assert.equal(await connect('/web').feedback({ ident: 'printer' }, 'page 1'), 'delivered');
  assert.equal((await feedback).message, 'page 1');
});

test('packets without opcode, plain text and binary messages are delivered', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  const chat = connect('/chat');
  assert.equal((await nextOf(chat, 'message')).type, 'system');

  const talk = connect('/talk');
  const text = nextOf(talk, 'message');
  talk.send('hello');
  assert.equal(await text, 'you said: hello');

  const binary = nextOf(talk, 'binary');
  const bytes = new Uint8Array([9, 1, 2, 255]).subarray(1);
  const sent = talk.send(bytes);
  bytes.fill(0);
  await sent;
  assert.deepEqual(new Uint8Array(await binary), new Uint8Array([1, 2, 255]));
});

test('a packet whose opcode is a reserved event name is delivered once, as message', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web');
  await socket.ready;
  const seen = [];
  for (const name of ['message', 'status', 'binary']) socket.on(name, value => seen.push([name, value.opcode]));
  const [{ send }] = host.connections;
  for (const opcode of ['message', 'status', 'binary']) send({ opcode });
  await socket.echo('');
  assert.deepEqual(seen.map(([name]) => name), ['message', 'message', 'message', 'message']);
});

test('long messages are split into chunks between characters', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/talk', { chunkSize: 16 });
  const long = '😀ä€a'.repeat(50);
  await socket.send(long);
  assert.deepEqual(host.messages, [long]);
  const chunks = host.frames.slice(1, -1);
  assert.equal(host.frames[0], 'bufferON');
  assert.equal(host.frames.at(-1), 'bufferOFF');
  for (const chunk of chunks) {
    assert.ok(Buffer.byteLength(chunk) <= 16);
    assert.ok(chunk.isWellFormed?.() ?? true);
  }
  await socket.send('x'.repeat(16));
  assert.equal(host.frames.at(-1), 'x'.repeat(16));
});

test('a text that equals a chunk command arrives as text', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/talk', { chunkSize: 16 });
  const texts = ['bufferON', `${'x'.repeat(16)}bufferOFF`, `${'x'.repeat(16)}bufferON`, 'after'];
  for (const text of texts) await socket.send(text);
  assert.deepEqual(host.messages, texts);
});

test('the queue survives a reconnect, and the uuid changes', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web');
  const first = await socket.ready;
  [...host.connections][0].ws.terminate();
  await statusOf(socket, 'waiting');
  assert.equal(socket.uuid, null);
  const sent = [socket.echo('one'), socket.feedback(UNKNOWN_UUID, 'two')];
  const second = await socket.ready;
  assert.notEqual(second, first);
  assert.deepEqual(await Promise.all(sent), ['', 'gone']);
  assert.equal(JSON.parse(host.messages[1]).fromUUID, second);
});

test('an unacknowledged message is rejected as lost, and the next one is sent', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.acknowledges = text => !text.includes('fatal') || void [...host.connections][0].ws.terminate();
  const socket = connect('/web');
  const fatal = socket.echo('fatal');
  const behind = socket.echo('behind');
  assert.equal(await codeOf(fatal), 'lost');
  assert.equal(await behind, '');
  assert.equal(host.messages.filter(text => text.includes('fatal')).length, 1);
});

test('an unacknowledged message is sent again up to resend times', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.acknowledges = text => !text.includes('fatal') || void [...host.connections][0].ws.terminate();
  const socket = connect('/web', { resend: 2 });
  assert.equal(await codeOf(socket.echo('fatal')), 'lost');
  assert.equal(host.messages.filter(text => text.includes('fatal')).length, 3);
});

test('a message whose chunks were not all sent is sent again completely', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  let cuts = 0;
  host.acknowledges = text => text !== 'c'.repeat(16) || (cuts += 1) > 2 || void [...host.connections][0].ws.terminate();
  const socket = connect('/talk', { chunkSize: 16 });
  await socket.send('c'.repeat(40));
  assert.deepEqual(host.messages, ['c'.repeat(40)]);
});

test('a message for which the server closes is rejected as refused and not sent again', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.acknowledges = () => false;
  const socket = connect('/web', { resend: 5 });
  const error = await socket.send('no json').catch(error => error);
  assert.ok(error instanceof PlugsocketError);
  assert.equal(error.code, 'refused');
  assert.equal(error.closeCode, 1007);
  assert.equal(error.message, 'no JSON');
  await socket.ready;
  assert.equal(host.messages.length, 1);
});

test('a message beyond maxQueued is rejected as full', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.sendsReady = false;
  const socket = connect('/web', { maxQueued: 2 });
  const sent = [socket.echo(1), socket.echo(2), socket.echo(3)];
  assert.equal(await codeOf(sent[2]), 'full');
  socket.close();
  assert.deepEqual(await Promise.all(sent.slice(0, 2).map(codeOf)), ['closed', 'closed']);
  assert.equal(await codeOf(socket.ready), 'closed');
  assert.equal(await codeOf(socket.echo(4)), 'closed');
});

test('retry_after of a close packet is honoured', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.onConnection = ({ send, ws }) => {
    if (host.handshakes > 1) return;
    send({ opcode: 'close', error: 'busy', retry_after: 0.3 });
    ws.close(1013);
  };
  const socket = connect('/web');
  const { error, closeCode, retryMs } = await statusOf(socket, 'waiting');
  const began = Date.now();
  assert.deepEqual([error, closeCode], ['busy', 1013]);
  assert.ok(retryMs >= 300 && retryMs <= 320, `${retryMs}`);
  await socket.ready;
  assert.ok(Date.now() - began >= 290);
});

test('a refused resource is retried slowly, and ready and the status have the reason', TIMEOUT, async t => {
  const { host, connect } = await setUp(t, { unmapped: ['/jobs'] });
  const socket = connect('/jobs', { reconnectMaxMs: 30_000 });
  const refused = socket.ready.catch(error => error);
  const { error, closeCode, retryMs } = await statusOf(socket, 'waiting');
  assert.deepEqual([error, closeCode], ['no application is mapped to /jobs', 1008]);
  assert.ok(retryMs >= 15_000);
  assert.deepEqual([(await refused).code, (await refused).message, (await refused).closeCode], ['refused', error, 1008]);
  host.applications['/jobs'] = host.applications['/web'];
  socket.open();
  await socket.ready;
});

test('a refusal that repeats ends with its reason, and open tries again', TIMEOUT, async t => {
  const { host, connect } = await setUp(t, { unmapped: ['/jobs'] });
  const socket = connect('/jobs');
  const queued = socket.echo('never sent');
  const { error } = await statusOf(socket, 'closed');
  assert.equal(error, 'no application is mapped to /jobs');
  const rejected = await socket.ready.catch(error => error);
  assert.deepEqual([rejected.code, rejected.message, rejected.closeCode], ['closed', error, 1008]);
  assert.deepEqual([socket.status, await codeOf(queued), host.handshakes], ['closed', 'closed', 3]);
  host.applications['/jobs'] = host.applications['/web'];
  socket.open();
  await socket.ready;
});

test('an HTTP status that refuses ends the attempts, and others do not', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.refuses = () => 401;
  const socket = connect('/web', { refusedAttempts: 2 });
  assert.equal(await codeOf(socket.ready), 'refused');
  assert.match((await statusOf(socket, 'closed')).error, /401/);
  assert.equal(host.handshakes, 2);
  host.refuses = () => (host.handshakes < 8 ? [503, 429, 408][host.handshakes % 3] : null);
  socket.open();
  await socket.ready;
  assert.equal(host.handshakes, 8);
});

test('a refused URL, protocols or token from a function is renewed for each attempt', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const seen = [];
  host.refuses = ({ url, headers }) => {
    seen.push([new URL(url, 'http://host').searchParams.get('n'), headers['sec-websocket-protocol'], headers.authorization]);
    return seen.length < 4 ? 401 : null;
  };
  let count = 0;
  const socket = connect(async () => `/web?n=${(count += 1)}`, {
    protocols: () => ['bearer', `p${count}`],
    token: async () => `t${count}`,
    refusedAttempts: 2,
  });
  assert.equal(socket.url, null);
  await socket.ready;
  assert.deepEqual(seen, [1, 2, 3, 4].map(n => [`${n}`, `bearer,p${n}`, `Bearer t${n}`]));
  assert.equal(socket.url, host.url('/web?n=4'));
});

test('a function that returns the same refused token again does not try for ever', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.refuses = () => 401;
  const socket = connect(() => '/web?token=old');
  assert.equal(await codeOf(socket.ready), 'refused');
  assert.equal(host.handshakes, 2);
  await statusOf(socket, 'closed');
  assert.equal(host.handshakes, 3);
});

test('an exception of a function is a failed attempt, shown in the status', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  let calls = 0;
  const failing = [
    () => {
      throw new Error('no session');
    },
    () => Promise.reject(new Error('offline')),
    () => 'http://host/web?heartbeat=3',
    () => new Promise(() => {}),
    () => '/web',
  ];
  const socket = connect(() => failing[calls++](), { readyTimeoutMs: 200 });
  const errors = [];
  socket.on('status', ({ status, error, retryMs }) => status === 'waiting' && errors.push([error, retryMs > 0]));
  await socket.ready;
  assert.deepEqual(errors, [
    ['no session', true],
    ['offline', true],
    ['plugsocket: the query parameter heartbeat is reserved; use the option heartbeatMs', true],
    ['no URL, protocols or token from its function within 0.2 s', true],
  ]);
  assert.equal(host.handshakes, 1);
});

test('a function that is pending when the socket is closed opens no connection', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  let answer;
  const socket = connect(() => new Promise(resolve => (answer = resolve)));
  socket.close();
  answer('/web');
  const other = connect('/web');
  await other.ready;
  assert.equal(host.handshakes, 1);
});

test('protocols that the class does not take end the attempts', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  const socket = connect('/web', { protocols: ['two words'], refusedAttempts: 2 });
  assert.match((await socket.ready.catch(error => error)).message, /subprotocol/);
  await statusOf(socket, 'closed');
});

test('ready is rejected at its deadline, and attempts continue', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const { port } = host;
  await host.stop();
  const socket = connect('/web', { readyDeadlineMs: 100 });
  const late = await socket.ready.catch(error => error);
  assert.equal(late.code, 'timeout');
  assert.match(late.message, /^not ready within 0.1 s: .*ECONNREFUSED/);
  assert.equal(await codeOf(socket.ready), 'timeout');
  const again = await MockHost.start({ port });
  host.stop = () => again.stop();
  while ((await codeOf(socket.ready)) !== 'fulfilled');
  assert.equal(socket.status, 'ready');
});

test('a resource without a dialog is named', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const error = 'this resource has dialog = false; use a plain WebSocket or set dialog = true';
  host.sendsReady = false;
  for (const first of ['hello', '{"opcode":"feedback"}', Buffer.from('bytes')]) {
    host.onConnection = ({ ws }) => ws.send(first);
    const socket = connect('/web');
    let messages = 0;
    socket.on('message', () => (messages += 1));
    const rejected = await socket.ready.catch(error => error);
    assert.deepEqual([rejected.code, rejected.message, socket.status, messages], ['closed', error, 'closed', 0]);
  }
  host.onConnection = () => {};
  const silent = connect('/web', { readyTimeoutMs: 500, readyDeadlineMs: 800 });
  const waiting = await statusOf(silent, 'waiting');
  assert.equal(waiting.error, `no ready from the server within 0.5 s: perhaps ${error}`);
  assert.match((await silent.ready.catch(error => error)).message, /dialog = false/);
});

test('a silent host is given up after two intervals of its heartbeat', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web?room=a%20b', { heartbeatMs: 1000 });
  const seen = [];
  socket.on('message', packet => seen.push(packet));
  socket.on('heartbeat', packet => seen.push(packet));
  await socket.ready;
  const [{ query }] = host.connections;
  assert.deepEqual([query.get('heartbeat'), query.get('room')], ['1', 'a b']);
  assert.equal(socket.url, host.url('/web?room=a%20b'));
  const began = Date.now();
  const { error, closeCode } = await statusOf(socket, 'waiting');
  assert.deepEqual([error, closeCode], ['no sign of life from the server within 2 s', 1006]);
  assert.ok(Date.now() - began >= 2000);
  assert.deepEqual(seen, []);
  await socket.ready;
});

test('a host without heartbeats, and one that sends anything, is not given up', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.heartbeats = false;
  const old = connect('/web', { heartbeatMs: 1000 });
  await old.ready;
  host.heartbeats = true;
  const busy = connect('/web', { heartbeatMs: 1000 });
  const quiet = connect('/web', { heartbeatMs: 1000 });
  await Promise.all([busy.ready, quiet.ready]);
  const talk = setInterval(() => [...host.connections][1].send({ opcode: 'news' }), 500);
  t.after(() => clearInterval(talk));
  await statusOf(quiet, 'waiting');
  assert.deepEqual([old.status, busy.status], ['ready', 'ready']);
});

test('without heartbeatMs nothing is asked for, and the opcode is an ordinary one', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web', { heartbeatMs: 0 });
  await socket.ready;
  const [{ query, send }] = host.connections;
  assert.equal(query.has('heartbeat'), false);
  const own = nextOf(socket, 'heartbeat');
  send({ opcode: 'heartbeat' });
  await own;
});

test('online, offline and a page that is seen again end a wait', TIMEOUT, async t => {
  const window = new EventTarget();
  const listeners = new Set();
  globalThis.addEventListener = (name, listener) => (listeners.add(name), window.addEventListener(name, listener));
  globalThis.removeEventListener = (name, listener) => (listeners.delete(name), window.removeEventListener(name, listener));
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  t.after(() => ['addEventListener', 'removeEventListener', 'document'].forEach(name => delete globalThis[name]));
  const { host, connect } = await setUp(t);
  const socket = connect('/web', { reconnectMinMs: 60_000, reconnectMaxMs: 60_000 });
  await socket.ready;
  for (const [target, name] of [[window, 'online'], [window, 'offline'], [document, 'visibilitychange']]) {
    const lost = statusOf(socket, 'waiting');
    [...host.connections][0].ws.terminate();
    await lost;
    if (target === document) {
      document.visibilityState = 'hidden';
      document.dispatchEvent(new Event(name));
      assert.equal(socket.status, 'waiting');
      document.visibilityState = 'visible';
    }
    target.dispatchEvent(new Event(name));
    await socket.ready;
  }
  // A wait that the host has announced is kept.
  const told = statusOf(socket, 'waiting');
  [...host.connections][0].send({ opcode: 'close', error: 'restart', retry_after: 60 });
  [...host.connections][0].ws.close(1001);
  await told;
  window.dispatchEvent(new Event('online'));
  assert.equal(socket.status, 'waiting');
  socket.close();
  assert.equal(listeners.size, 0);
});

test('a connection that was frozen is checked when the page is seen again', TIMEOUT, async t => {
  const window = new EventTarget();
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  const now = Date.now;
  t.after(() => {
    Date.now = now;
    ['addEventListener', 'removeEventListener'].forEach(name => delete globalThis[name]);
  });
  const { host, connect } = await setUp(t);
  const socket = connect('/web', { heartbeatMs: 60_000 });
  const alive = connect('/web', { heartbeatMs: 60_000 });
  await Promise.all([socket.ready, alive.ready]);
  Date.now = () => now() + 600_000;
  window.dispatchEvent(new Event('online'));
  // What the frozen page has missed is delivered first.
  [...host.connections][1].send({ opcode: 'heartbeat' });
  assert.equal((await statusOf(socket, 'waiting')).error, 'no sign of life from the server within 120 s');
  assert.equal(alive.status, 'ready');
});

test('without a network the wait is the longest, and online begins with short ones', TIMEOUT, async t => {
  const window = new EventTarget();
  const navigator = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  const network = { onLine: true };
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  Object.defineProperty(globalThis, 'navigator', { value: network, configurable: true });
  t.after(() => {
    ['addEventListener', 'removeEventListener', 'navigator'].forEach(name => delete globalThis[name]);
    if (navigator) Object.defineProperty(globalThis, 'navigator', navigator);
  });
  const { host, connect } = await setUp(t);
  const socket = connect('/web', { reconnectMaxMs: 60_000 });
  await socket.ready;
  const loses = () => {
    const lost = statusOf(socket, 'waiting');
    for (const { ws } of host.connections) ws.terminate();
    return lost;
  };
  network.onLine = false;
  assert.ok((await loses()).retryMs >= 30_000);
  host.refuses = () => 503;
  const failed = statusOf(socket, 'waiting');
  window.dispatchEvent(new Event('offline'));
  assert.ok((await failed).retryMs >= 30_000);
  host.refuses = () => null;
  network.onLine = true;
  window.dispatchEvent(new Event('online'));
  await socket.ready;
  assert.ok((await loses()).retryMs <= 20);
});

test('the wait doubles from one failure to the next', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const { port } = host;
  await host.stop();
  host.stop = async () => {};
  const socket = connect('/web', { reconnectMinMs: 40, reconnectMaxMs: 200 });
  assert.equal(host.port, port);
  const delays = [];
  while (delays.length < 5) delays.push((await statusOf(socket, 'waiting')).retryMs);
  const bounds = [40, 80, 160, 200, 200];
  delays.forEach((delay, number) => assert.ok(delay >= bounds[number] / 2 && delay <= bounds[number], `${delays}`));
});

test('a close with 1000 ends the connection, and open starts a new one', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web');
  await socket.ready;
  socket.send({ opcode: 'quit' });
  await statusOf(socket, 'closed');
  assert.equal(host.handshakes, 1);
  socket.open();
  assert.equal(await socket.ready, socket.uuid);
  assert.equal(host.handshakes, 2);
});

test('a connection that misses the ready or acknowledge timeout is closed', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.sendsReady = false;
  const silent = connect('/web', { readyTimeoutMs: 500 });
  assert.equal((await statusOf(silent, 'waiting')).error, 'no ready from the server within 0.5 s: perhaps this resource has dialog = false; use a plain WebSocket or set dialog = true');
  silent.close();
  host.sendsReady = true;
  host.acknowledges = () => false;
  const hanging = connect('/web', { acknowledgeTimeoutMs: 50 });
  assert.equal(await codeOf(hanging.echo('')), 'lost');
});

test('an exception in a listener stops neither other listeners nor the dialog', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  const socket = connect('/web');
  const thrown = [];
  const original = globalThis.queueMicrotask;
  globalThis.queueMicrotask = job => {
    try {
      job();
    } catch (error) {
      thrown.push(error.message);
    }
  };
  t.after(() => (globalThis.queueMicrotask = original));
  socket.on('echo', () => {
    throw new Error('mine');
  });
  const echo = nextOf(socket, 'echo');
  await socket.echo('still here');
  assert.equal((await echo).message, 'still here');
  assert.deepEqual(thrown, ['mine']);
});

test('the option signal closes the socket for good', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const controller = new AbortController();
  const { signal } = controller;
  const [socket, other] = [connect('/web', { signal }), connect('/web', { signal })];
  await Promise.all([socket.ready, other.ready]);
  other.close();
  assert.equal(getEventListeners(signal, 'abort').length, 1);
  host.acknowledges = () => false;
  const unacknowledged = [socket.echo(1), socket.echo(2)];
  const closed = nextOf(socket, 'status');
  controller.abort(new Error('left'));
  assert.deepEqual(await closed, { status: 'closed' });
  assert.deepEqual(await Promise.all(unacknowledged.map(codeOf)), ['lost', 'closed']);
  assert.equal(getEventListeners(signal, 'abort').length, 0);
  assert.throws(() => socket.open(), /left/);
  assert.throws(() => connect('/web', { signal }), /left/);
});

test('whenReady ends with the reason of its signal, and the connection continues', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  host.sendsReady = false;
  const socket = connect('/web');
  const controller = new AbortController();
  const waits = [socket.whenReady({ signal: controller.signal }), socket.whenReady({ signal: AbortSignal.abort('before') }), socket.whenReady()];
  controller.abort('impatient');
  assert.deepEqual(await Promise.allSettled(waits.slice(0, 2)), [
    { status: 'rejected', reason: 'impatient' },
    { status: 'rejected', reason: 'before' },
  ]);
  assert.equal(socket.status, 'connecting');
  while (host.connections.size === 0) await new Promise(resolve => host.wss.once('connection', resolve));
  const [{ send }] = host.connections;
  send({ opcode: 'ready', uuid: 'late' });
  assert.equal(await waits[2], 'late');
  const settled = new AbortController();
  await socket.whenReady({ signal: settled.signal });
  await null;
  assert.equal(getEventListeners(settled.signal, 'abort').length, 0);
});

test('a signal removes a listener', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  const socket = connect('/web');
  const seen = [];
  const controller = new AbortController();
  const { signal } = controller;
  socket.on('echo', ({ message }) => seen.push(`one ${message}`), { signal });
  const remove = socket.on('echo', ({ message }) => seen.push(`two ${message}`), { signal });
  socket.on('echo', () => assert.fail('the signal was aborted before'), { signal: AbortSignal.abort() });
  await socket.echo(1);
  assert.equal(remove(), true);
  assert.equal(getEventListeners(signal, 'abort').length, 1);
  await socket.echo(2);
  controller.abort();
  await socket.echo(3);
  assert.deepEqual(seen, ['one 1', 'two 1', 'one 2']);
});

test('a signal takes a message out of the queue', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const controller = new AbortController();
  const { signal } = controller;
  const socket = connect('/web');
  const sent = [socket.echo(1, { signal }), socket.broadcast(2), socket.feedback(UNKNOWN_UUID, 3, { signal })];
  controller.abort('changed my mind');
  assert.equal(socket.queued, 1);
  sent.push(socket.send({ opcode: 'echo' }, { signal }));
  const reason = 'changed my mind';
  assert.deepEqual(await Promise.allSettled(sent), [
    { status: 'rejected', reason },
    { status: 'fulfilled', value: '' },
    { status: 'rejected', reason },
    { status: 'rejected', reason },
  ]);
  assert.deepEqual(host.messages.map(text => JSON.parse(text).message), [2]);
});

test('a signal does not take back a message that is being sent', TIMEOUT, async t => {
  const { host, connect } = await setUp(t);
  const socket = connect('/web', { resend: 5 });
  await socket.ready;
  const arrived = () => new Promise(resolve => (host.acknowledges = () => (resolve(), false)));
  const [first, second] = [new AbortController(), new AbortController()];

  let reached = arrived();
  const sent = [socket.echo(1, first), socket.echo(2, second)];
  await reached;
  first.abort('too late');
  assert.deepEqual([await sent[0].catch(reason => reason), socket.queued], ['too late', 2]);
  reached = arrived();
  [...host.connections][0].send({ opcode: 'next', fyi: '' });
  await reached;

  second.abort('too late');
  host.acknowledges = () => true;
  [...host.connections][0].ws.terminate();
  await statusOf(socket, 'ready');
  await socket.echo(3);
  assert.deepEqual(host.messages.map(text => JSON.parse(text).message), [1, 2, 3]);
});

test('packet waits for one packet, until the socket is closed or the signal aborted', TIMEOUT, async t => {
  const { connect } = await setUp(t);
  const socket = connect('/web');
  const echo = socket.packet('echo');
  await socket.echo('one');
  await socket.echo('two');
  assert.equal((await echo).message, 'one');

  const controller = new AbortController();
  const aborted = socket.packet('echo', controller);
  controller.abort('impatient');
  assert.equal(await aborted.catch(reason => reason), 'impatient');

  const [ended, status] = [socket.packet('echo'), socket.packet('status')];
  socket.send({ opcode: 'quit' });
  assert.equal((await status).status, 'closed');
  const error = await ended.catch(error => error);
  assert.deepEqual([error.name, error.code, error.message, error.closeCode], ['PlugsocketError', 'closed', 'closed by the server', 1000]);
  assert.equal(await codeOf(socket.packet('echo')), 'closed');
});

/** Client that counts its listeners. */
class Counting extends Plugsocket {
  listeners = 0;
  on(...args) {
    const remove = super.on(...args);
    this.listeners += 1;
    return () => ((this.listeners -= 1), remove());
  }
}

test('packets delivers what arrives before and during the loop, and ends with the socket', TIMEOUT, async t => {
  const { host } = await setUp(t);
  const socket = new Counting(host.url('/web'), { WebSocket });
  t.after(() => socket.close());
  const packets = socket.packets('echo');
  await socket.echo(1);
  await socket.echo(2);
  const seen = [];
  for await (const { message } of packets) {
    seen.push(message);
    if (message === 2) socket.echo(3);
    // What has arrived before the end is delivered.
    if (message === 3) await Promise.all([statusOf(socket, 'closed'), socket.echo(4), socket.send({ opcode: 'quit' }).catch(() => {})]);
  }
  assert.deepEqual([seen, socket.listeners], [[1, 2, 3, 4], 0]);
  for await (const _ of socket.packets('echo')) assert.fail('the socket is closed');
  assert.equal(socket.listeners, 0);
});

test('the end of a loop over packets leaves no listener behind', TIMEOUT, async t => {
  const { host } = await setUp(t);
  const socket = new Counting(host.url('/web'), { WebSocket });
  t.after(() => socket.close());
  const controller = new AbortController();
  const { signal } = controller;
  const left = () => [socket.listeners, getEventListeners(signal, 'abort').length];

  const echoes = socket.packets('echo', { signal });
  assert.deepEqual(left(), [2, 1]);
  socket.echo(1);
  for await (const { message } of echoes) if (message === 1) break;
  assert.deepEqual(left(), [0, 0]);

  const unused = socket.packets('echo', { signal });
  const pending = unused.next();
  await unused.return();
  assert.deepEqual([await pending, left()], [{ value: undefined, done: true }, [0, 0]]);

  const thrown = (async () => {
    for await (const _ of socket.packets('echo', { signal })) controller.abort(new Error('enough'));
  })();
  await socket.echo(2);
  await assert.rejects(thrown, /enough/);
  assert.deepEqual(left(), [0, 0]);
  await assert.rejects(socket.packets('echo', { signal }).next(), /enough/);
  assert.deepEqual(left(), [0, 0]);
});

test('packets ends with full when more are waiting than it may hold', TIMEOUT, async t => {
  const { host } = await setUp(t);
  const socket = new Counting(host.url('/web'), { WebSocket });
  t.after(() => socket.close());
  const packets = socket.packets('echo', { maxBuffered: 2 });
  for (const number of [1, 2, 3, 4]) await socket.echo(number);
  assert.equal(socket.listeners, 0);
  const seen = [];
  const loop = async () => {
    for await (const { message } of packets) seen.push(message);
  };
  await assert.rejects(loop, { name: 'PlugsocketError', code: 'full', message: '2 packets are already waiting' });
  assert.deepEqual(seen, [1, 2]);
  assert.deepEqual(await packets.next(), { value: undefined, done: true });
});

test('invalid arguments throw immediately', () => {
  assert.throws(() => new Plugsocket('/web', { WebSocket }), /there is no page/);
  assert.throws(() => new Plugsocket('ws://host/web', { WebSocket, chunksize: 5 }), /no option chunksize/);
  assert.throws(() => new Plugsocket('ws://host/web', { WebSocket, chunkSize: 5 }), /at least 16/);
  for (const heartbeatMs of [-1, 500, 600_001, NaN, '25']) {
    assert.throws(() => new Plugsocket('ws://host/web', { WebSocket, heartbeatMs }), /heartbeatMs must be 0/);
  }
  assert.throws(() => new Plugsocket('ws://host/web?a=1&heartbeat=5', { WebSocket }), /heartbeat is reserved/);
});

test('a URL relative to the page becomes ws or wss', TIMEOUT, t => {
  class Unconnected extends EventTarget {
    close() {}
  }
  t.after(() => delete globalThis.location);
  const cases = [
    ['https://site.example/plugsocket/', '../web?room=7', 'wss://site.example/web?room=7'],
    ['http://site.example:8095/a/b', '/web', 'ws://site.example:8095/web'],
    ['http://site.example/chat#top', '', 'ws://site.example/chat'],
    ['http://site.example/', 'wss://other.example/web', 'wss://other.example/web'],
  ];
  for (const [href, url, expected] of cases) {
    globalThis.location = { href };
    const socket = new Plugsocket(url, { WebSocket: Unconnected });
    assert.equal(socket.url, expected);
    socket.close();
  }
});
