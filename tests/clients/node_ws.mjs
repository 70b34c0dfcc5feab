/**
 * The npm package `ws` against a running host: dialog, order, binary messages, idents, pings, close
 * codes; and the JavaScript client on top of `ws`.
 *
 *     PLUGSOCKET_URL=http://127.0.0.1:8095 node tests/clients/node_ws.mjs
 *
 * Loads `ws` from clients/js (run `npm ci` there). Exit code 77: it is not installed.
 */
import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { Plugsocket } from '../../clients/js/plugsocket.js';

const WebSocket = load('ws');
const base = (process.env.PLUGSOCKET_URL ?? 'http://127.0.0.1:8095').replace(/^http/, 'ws').replace(/\/$/, '');
const NEXT = { opcode: 'next', fyi: '' };

function load(name) {
  try {
    return createRequire(new URL('../../clients/js/package.json', import.meta.url))(name);
  } catch {
    console.log(`the npm package ${name} is missing: cd clients/js && npm ci`);
    process.exit(77);
  }
}

/** A connection with a queue of received messages. */
class Client {
  #messages = [];
  #waiting = [];

  constructor(path, headers = {}) {
    this.socket = new WebSocket(base + path, { headers });
    this.closed = once(this.socket, 'close').then(([code, reason]) => ({ code, reason: reason.toString() }));
    this.socket.on('message', (bytes, isBinary) => {
      const message = isBinary ? bytes : bytes.toString();
      const waiting = this.#waiting.shift();
      if (waiting) waiting(message);
      else this.#messages.push(message);
    });
  }

  receive() {
    if (this.#messages.length > 0) return Promise.resolve(this.#messages.shift());
    return new Promise(resolve => this.#waiting.push(resolve));
  }

  async packet() {
    return JSON.parse(await this.receive());
  }

  async ready() {
    const { opcode, uuid } = await this.packet();
    assert.equal(opcode, 'ready');
    return uuid;
  }

  sendPacket(packet) {
    this.socket.send(JSON.stringify(packet));
  }
}

const tests = {
  async 'pipelined messages are handled in order'() {
    const client = new Client('/web');
    await client.ready();
    for (let number = 0; number < 2000; number++) client.sendPacket({ opcode: 'echo', message: number });
    for (let number = 0; number < 2000; number++) {
      assert.deepEqual(await client.packet(), { opcode: 'echo', message: number });
      assert.deepEqual(await client.packet(), NEXT);
    }
    client.socket.close(1000);
    assert.equal((await client.closed).code, 1000);
  },

  async 'feedback by ident reaches a backend'() {
    const printer = new Client('/php', { 'Client-Type': 'backend', Ident: 'printer-node-ws' });
    const browser = new Client('/web');
    await Promise.all([printer.ready(), browser.ready()]);
    const packet = { opcode: 'feedback', ident: 'printer-node-ws', message: 'print this' };
    browser.sendPacket(packet);
    assert.deepEqual(await browser.packet(), { opcode: 'next', fyi: 'delivered' });
    assert.deepEqual(await printer.packet(), packet);
    printer.socket.close();
    await printer.closed;
    browser.sendPacket(packet);
    assert.deepEqual(await browser.packet(), { opcode: 'next', fyi: 'gone' });
    browser.socket.close();
  },

  async 'binary messages and fragments are echoed byte for byte'() {
    const client = new Client('/echo');
    await once(client.socket, 'open');
    for (const size of [0, 1, 65536, 3_000_000]) {
      const sent = randomBytes(size);
      client.socket.send(sent);
      assert.deepEqual(await client.receive(), sent);
    }
    client.socket.send(Buffer.from([1]), { fin: false });
    client.socket.send(Buffer.from([2]), { fin: false });
    client.socket.send(Buffer.from([3]), { fin: true });
    assert.deepEqual(await client.receive(), Buffer.from([1, 2, 3]));
    client.socket.close(4001, 'my own reason');
    assert.deepEqual(await client.closed, { code: 4001, reason: 'my own reason' });
  },

  async 'a ping is answered with its payload'() {
    const client = new Client('/web');
    await client.ready();
    client.socket.ping('payload');
    const [payload] = await once(client.socket, 'pong');
    assert.equal(payload.toString(), 'payload');
    client.socket.close();
  },

  async 'a resource uses its own configuration of a shared library'() {
    const talk = new Client('/talk');
    await talk.ready();
    talk.socket.send('HELLO');
    assert.equal(await talk.receive(), 'Hello, human');
    assert.deepEqual(await talk.packet(), NEXT);
    talk.socket.send('bye');
    assert.equal(await talk.receive(), 'Goodbye');
    assert.equal((await talk.closed).code, 1000);
  },

  async 'the JavaScript client queues, splits into chunks and returns verdicts'() {
    const one = new Plugsocket(`${base}/web`, { WebSocket });
    const two = new Plugsocket(`${base}/web`, { WebSocket, chunkSize: 1000 });
    const got = new Promise(resolve => one.on('feedback', resolve));
    // Sent before `ready`, so the client queues it.
    const long = 'ä'.repeat(20_000);
    assert.equal(await two.feedback(await one.ready, long), 'delivered');
    assert.equal((await got).message, long);
    const received = new Promise(resolve => one.on('broadcast', resolve));
    await two.broadcast('to all');
    assert.equal((await received).message, 'to all');
    assert.equal(await two.feedback(`00000000-0000-4000-8000-000000000000.${'0'.repeat(64)}`, 'x'), 'gone');
    one.close();
    two.close();
  },

  async 'the JavaScript client sends a token, and ends when it is refused'() {
    const encode = packet => Buffer.from(JSON.stringify(packet)).toString('base64url');
    const signed = `${encode({ alg: 'HS256' })}.${encode({ sub: 'ann', exp: Math.floor(Date.now() / 1000) + 60 })}`;
    const token = `${signed}.${createHmac('sha256', '0123456789abcdef0123456789abcdef').update(signed).digest('base64url')}`;
    class Backend extends WebSocket {
      constructor(url, protocols, { headers }) {
        super(url, protocols, { headers: { ...headers, 'Client-Type': 'backend' } });
      }
    }
    const tokens = ['a.b.c', token];
    const member = new Plugsocket(`${base}/members`, { WebSocket: Backend, token: async () => tokens.shift(), reconnectMinMs: 20 });
    assert.equal(await member.feedback(await member.ready, 'x'), 'gone');
    member.close();
    for (const headers of [{}, { Origin: base.replace(/^ws/, 'http') }]) {
      class Browser extends WebSocket {
        constructor(url, protocols) {
          super(url, protocols, { headers });
        }
      }
      const url = `${base}/members`;
      const refused = new Plugsocket(url, { WebSocket: Browser, protocols: ['bearer', 'a.b.c'], reconnectMinMs: 20 });
      const error = await refused.ready.catch(error => error);
      assert.equal(error.code, 'refused');
      assert.match(error.message, headers.Origin ? /^the token cannot be read$/ : /401/);
      refused.close();
    }
  },

  async 'the JavaScript client names a path and a resource that it cannot use'() {
    const unknown = new Plugsocket(`${base}/none`, { WebSocket, reconnectMinMs: 20 });
    assert.equal((await unknown.ready.catch(error => error)).message, 'no application serves /none');
    const plain = new Plugsocket(`${base}/echo`, { WebSocket, readyTimeoutMs: 1000, readyDeadlineMs: 1500 });
    assert.match((await plain.ready.catch(error => error)).message, /this resource has dialog = false/);
    unknown.close();
    plain.close();
  },

  async 'a connection with heartbeats stays while the host has nothing to say'() {
    const clock = new Client('/web?heartbeat=1');
    const socket = new Plugsocket(`${base}/web`, { WebSocket, heartbeatMs: 1000 });
    const changes = [];
    await Promise.all([clock.ready(), socket.ready]);
    for (const name of ['status', 'message']) socket.on(name, change => changes.push(change));
    for (let count = 0; count < 5; count++) assert.deepEqual(await clock.packet(), { opcode: 'heartbeat' });
    assert.deepEqual([socket.status, changes], ['ready', []]);
    clock.socket.close();
    socket.close();
  },
};

for (const [name, test] of Object.entries(tests)) {
  const timer = setTimeout(() => {
    console.log(`FAILED ${name}: not finished within 30 s`);
    process.exit(1);
  }, 30_000);
  try {
    await test();
  } catch (error) {
    console.log(`FAILED ${name}`);
    throw error;
  }
  clearTimeout(timer);
  console.log(`ok ${name}`);
}
process.exit(0);
