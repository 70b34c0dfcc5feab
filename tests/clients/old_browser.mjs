/**
 * A page written without the JavaScript client, in Chromium: it opens /web, waits for `ready`, sends
 * one packet at a time and waits for `next`, sends long packets in chunks, and receives feedback.
 *
 *     PLUGSOCKET_URL=http://127.0.0.1:8095 node tests/clients/old_browser.mjs
 *
 * Loads playwright-core from clients/js (run `npm ci` there) and starts Chromium from CHROMIUM
 * (default /usr/bin/chromium). Exit code 77: one of them is missing.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const { chromium } = load('playwright-core');
const address = (process.env.PLUGSOCKET_URL ?? 'http://127.0.0.1:8095').replace(/\/$/, '');

function missing(what) {
  console.log(what);
  process.exit(77);
}

function load(name) {
  if (!existsSync(executablePath)) missing(`Chromium is missing: ${executablePath}; set CHROMIUM to its path`);
  try {
    return createRequire(new URL('../../clients/js/package.json', import.meta.url))(name);
  } catch {
    return missing(`the npm package ${name} is missing: cd clients/js && npm ci`);
  }
}

/** Runs in the page: a client with a queue and a flag, like the old pages. */
function oldClient(url) {
  const CHUNK = 8 * 1024;
  const queue = [];
  const log = [];
  let isFree = false;
  const socket = new WebSocket(url);
  const client = { uuid: null, log, queue, closed: null };
  const sendNext = () => {
    if (isFree && queue.length > 0) {
      isFree = false;
      socket.send(queue.shift());
    }
  };
  client.send = packet => {
    const text = JSON.stringify(packet);
    if (text.length < CHUNK) {
      queue.push(text);
    } else {
      queue.push('bufferON');
      for (let at = 0; at < text.length; at += CHUNK) queue.push(text.slice(at, at + CHUNK));
      queue.push('bufferOFF');
    }
    sendNext();
  };
  socket.onmessage = event => {
    const packet = JSON.parse(event.data);
    if (packet.opcode === 'ready') client.uuid = packet.uuid;
    else if (packet.opcode !== 'next') log.push(packet);
    if (packet.opcode === 'ready' || packet.opcode === 'next') {
      isFree = true;
      sendNext();
    }
  };
  socket.onclose = event => (client.closed = { code: event.code, wasClean: event.wasClean });
  window.client = client;
}

const browser = await chromium.launch({ executablePath, args: ['--disable-gpu', '--no-first-run', '--disable-background-networking'], chromiumSandbox: false });
const timer = setTimeout(() => {
  console.log('FAILED: not finished within 60 s');
  process.exit(1);
}, 60_000);

try {
  const open = async path => {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(15_000);
    await page.evaluate(oldClient, address.replace(/^http/, 'ws') + path);
    return page;
  };
  const [one, two] = [await open('/web'), await open('/web')];
  for (const page of [one, two]) await page.waitForFunction(() => window.client.uuid);
  console.log('ok ready, with a uuid');

  await one.evaluate(() => {
    for (let number = 0; number < 200; number++) window.client.send({ opcode: 'echo', message: number });
  });
  await one.waitForFunction(() => window.client.log.length === 200);
  const echoed = await one.evaluate(() => window.client.log.splice(0).map(packet => packet.message));
  assert.deepEqual(echoed, [...Array(200).keys()]);
  console.log('ok packets are answered one at a time in order');

  await one.evaluate(() => window.client.send({ opcode: 'broadcast', message: 'ü'.repeat(50_000) }));
  await two.waitForFunction(() => window.client.log.length === 1);
  assert.equal(await two.evaluate(() => window.client.log.pop().message.length), 50_000);
  console.log('ok a long broadcast in chunks');

  const uuid = await two.evaluate(() => window.client.uuid);
  await one.evaluate(uuid => window.client.send({ opcode: 'feedback', uuid, message: 'for you', fromUUID: window.client.uuid }), uuid);
  await two.waitForFunction(() => window.client.log.length === 1);
  const packet = await two.evaluate(() => window.client.log.pop());
  assert.deepEqual(packet, { opcode: 'feedback', uuid, message: 'for you', fromUUID: await one.evaluate(() => window.client.uuid) });
  console.log('ok feedback by uuid');

  const answer = await fetch(`${address}/php`, { method: 'POST', body: JSON.stringify({ opcode: 'feedback', uuid, message: '50 %' }) });
  assert.equal((await answer.json()).fyi, 'delivered');
  await two.waitForFunction(() => window.client.log.some(packet => packet.message === '50 %'));
  console.log('ok feedback from a script');

  await one.evaluate(() => window.client.send({ opcode: 'quit' }));
  await one.waitForFunction(() => window.client.closed);
  assert.deepEqual(await one.evaluate(() => window.client.closed), { code: 1000, wasClean: true });

  const nowhere = await open('/nowhere');
  await nowhere.waitForFunction(() => window.client.closed);
  assert.equal(await nowhere.evaluate(() => window.client.closed.code), 1008);
  assert.match(await nowhere.evaluate(() => window.client.log[0].error), /nowhere/);
  console.log('ok a close is clean and has a reason');
} finally {
  clearTimeout(timer);
  await browser.close();
}
process.exit(0);
