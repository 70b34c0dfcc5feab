/**
 * Tests of the host's page in a real browser, against the mock host, or, with PLUGSOCKET_URL,
 * against a host that maps all bundled applications, jobs with `demo = true`:
 *
 *     PLUGSOCKET_URL=http://127.0.0.1:8095 node --test tests/page.test.js
 *
 * Skipped without Chromium (CHROMIUM, default /usr/bin/chromium).
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, skip } from './browser.js';
import { MockHost, UNKNOWN_UUID } from './mock_host.js';

const OPTIONS = { skip, timeout: 60_000 };

let browser, host, address;

before(async () => {
  if (skip) return;
  host = process.env.PLUGSOCKET_URL ? null : await MockHost.start();
  address = process.env.PLUGSOCKET_URL ?? `http://127.0.0.1:${host.port}`;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await host?.stop();
});

/** Opens a connected page in its own browser context; an error in its console fails the test. */
async function openPage(t, { url = address, awaits = ['web'] } = {}) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const errors = [];
  page.on('pageerror', error => errors.push(error.message));
  page.on('console', message => {
    if (message.type() === 'error' && !message.location().url.endsWith('/favicon.ico')) errors.push(message.text());
  });
  t.after(async () => {
    await context.close();
    assert.deepEqual(errors, []);
  });
  await page.goto(`${url}/plugsocket/`);
  for (const name of awaits) await isStatus(page, name, 'ready');
  return page;
}

const isStatus = (page, name, status) => page.waitForSelector(`#${name}-status[data-status="${status}"]`);
const hasText = (page, selector, text) => page.locator(selector, { hasText: text }).first().waitFor();

test('the curl command that the page shows delivers to the page', OPTIONS, async t => {
  const page = await openPage(t);
  const line = await page.textContent('#feedback-curl');
  const [, packet, url] = line.match(/^curl -d '(.*)' (\S+)$/);
  assert.equal(JSON.parse(packet).uuid, await page.textContent('#uuid'));
  const answer = await fetch(url, { method: 'POST', body: packet });
  assert.equal(JSON.parse(await answer.text()).fyi, 'delivered');
  await hasText(page, '#log li[data-opcode="feedback"]', '50 %');
});

test('received markup is shown as text', OPTIONS, async t => {
  const page = await openPage(t);
  await page.fill('#echo-input', '<img src=x onerror="document.title=1">');
  await page.click('#echo-send');
  await hasText(page, '#log li[data-opcode="echo"]', '<img src=x');
  assert.equal(await page.locator('#log img').count(), 0);
});

test('broadcast and feedback reach another page', OPTIONS, async t => {
  const [one, two] = [await openPage(t), await openPage(t)];
  await one.fill('#broadcast-input', 'to all');
  await one.click('#broadcast-send');
  await hasText(two, '#log li[data-opcode="broadcast"]', 'to all');
  assert.equal(await one.locator('#log li').count(), 0);
  await one.fill('#feedback-uuid', await two.textContent('#uuid'));
  await one.click('#feedback-send');
  await hasText(two, '#log li[data-opcode="feedback"]', 'only for you');
  await hasText(one, '#feedback-verdict', 'Delivered');
  await one.fill('#feedback-uuid', 'nobody');
  await one.click('#feedback-send');
  await hasText(one, '#feedback-verdict', 'alformed uuid');
  await one.fill('#feedback-uuid', UNKNOWN_UUID);
  await one.click('#feedback-send');
  await hasText(one, '#feedback-verdict', 'Gone');
});

test('a job is shown, survives a page reload and can be aborted', OPTIONS, async t => {
  const page = await openPage(t, { awaits: ['web', 'jobs'] });
  await page.click('#jobs-demo');
  await page.waitForSelector('#jobs-state[data-state="running"]');
  const job = await page.textContent('#jobs-id');
  await page.reload();
  await page.waitForSelector('#jobs-state[data-state="running"]');
  assert.equal(await page.textContent('#jobs-id'), job);
  await page.click('#jobs-abort');
  await page.waitForSelector('#jobs-state[data-state="aborted"]');
});

test('the commands that the page shows report to a job', OPTIONS, async t => {
  const page = await openPage(t, { awaits: ['jobs'] });
  await page.click('#jobs-start');
  await page.waitForSelector('#jobs-script[open]');
  for (const line of (await page.textContent('#jobs-curl')).split('\n')) {
    const [, packet, url] = line.match(/^curl -d '(.*)' (\S+)$/);
    await fetch(url, { method: 'POST', body: packet });
    await hasText(page, '#jobs-text', JSON.parse(packet).text);
  }
  await page.waitForSelector('#jobs-state[data-state="done"]');
});

test('another page sees a lock, and it survives a page reload', OPTIONS, async t => {
  const [one, two] = [await openPage(t, { awaits: ['locks'] }), await openPage(t, { awaits: ['locks'] })];
  const book = state => `#locks-table tr[data-id="B-1041"][data-state="${state}"]`;
  await one.click(`${book('free')} button`);
  await one.waitForSelector(book('mine'));
  await two.waitForSelector(book('other'));
  await hasText(two, book('other'), await one.textContent('#locks-name'));
  await one.reload();
  await one.waitForSelector(book('mine'));
  await one.click('#locks-unlock-all');
  await two.waitForSelector(book('free'));
});

test('two pages chat, and special characters are shown as written', OPTIONS, async t => {
  const [one, two] = [await openPage(t, { awaits: ['chat'] }), await openPage(t, { awaits: ['chat'] })];
  for (const [page, name] of [[one, 'Ann'], [two, 'Bob']]) {
    await page.fill('#chat-name', name);
    await page.fill('#chat-room', 'books & more');
    await page.click('#chat-join');
    await hasText(page, '#chat-log li', 'You are in books & more');
  }
  await one.fill('#chat-input', 'a < b & "c"');
  await one.click('#chat-send');
  await hasText(two, '#chat-log li', 'Anna < b & "c"');
});

test('the talking echo answers', OPTIONS, async t => {
  const page = await openPage(t, { awaits: ['talk'] });
  await page.fill('#talk-input', 'good morning');
  await page.click('#talk-send');
  await hasText(page, '#talk-log li:not(.mine)', 'good morning');
});

test('the inspector shows the packets of both directions and filters them', OPTIONS, async t => {
  const page = await openPage(t);
  const entry = direction => `#inspect-log li[data-direction="${direction}"]`;
  await page.fill('#inspect-path', '/talk');
  await page.click('#inspect-connect');
  await hasText(page, entry('in'), '"opcode": "ready"');
  await page.fill('#inspect-input', '{"a":1}');
  await page.click('#inspect-send');
  await hasText(page, entry('out'), '"a": 1');
  await hasText(page, entry('in'), '{"a":1}');
  await hasText(page, `${entry('in')}[data-opcode="next"]`, 'next');
  await page.fill('#inspect-filter', 'READY');
  assert.deepEqual(await page.locator('#inspect-log li:visible').count(), 1);
  await page.click('#inspect-clear');
  assert.equal(await page.locator('#inspect-log li').count(), 0);
});

test('an unmapped application is reported in its section and retried slowly', OPTIONS, async t => {
  const bare = await MockHost.start({ unmapped: ['/jobs', '/chat', '/locks', '/talk'] });
  t.after(() => bare.stop());
  const page = await openPage(t, { url: `http://127.0.0.1:${bare.port}` });
  for (const name of ['jobs', 'chat', 'locks', 'talk']) {
    await isStatus(page, name, 'waiting');
    await hasText(page, `#${name}-problem`, `needs /${name} in plugins.toml`);
  }
  assert.equal(await page.isDisabled('#jobs-demo'), true);
  assert.equal(bare.handshakes, 5);
  bare.applications['/talk'] = { text: (connection, text) => connection.send(text) };
  await page.click('#talk-retry');
  await isStatus(page, 'talk', 'ready');
  assert.equal(await page.isVisible('#talk-problem'), false);
});

test('the page reconnects and shows the new uuid in its commands', OPTIONS, async t => {
  const flaky = await MockHost.start();
  t.after(() => flaky.stop());
  // Wait for all of them: a handshake that is interrupted is an error in the console.
  const awaits = ['web', 'jobs', 'locks', 'chat', 'talk'];
  const page = await openPage(t, { url: `http://127.0.0.1:${flaky.port}`, awaits });
  const uuid = await page.textContent('#uuid');
  for (const { ws } of flaky.connections) ws.terminate();
  await isStatus(page, 'chat', 'waiting');
  assert.equal(await page.isDisabled('#chat-input'), true);
  await hasText(page, '#connections', '2');
  await isStatus(page, 'chat', 'ready');
  const present = await page.textContent('#uuid');
  assert.notEqual(present, uuid);
  assert.ok((await page.textContent('#feedback-curl')).includes(present));
  // The mock host ends with the test, as above.
  for (const name of awaits) await isStatus(page, name, 'ready');
});

test('the page reports a disabled demo', OPTIONS, async t => {
  const bare = await MockHost.start();
  t.after(() => bare.stop());
  bare.applications['/jobs'] = { packet() {} };
  const page = await openPage(t, { url: `http://127.0.0.1:${bare.port}`, awaits: ['jobs'] });
  await page.click('#jobs-demo');
  await hasText(page, '#jobs-note', 'demo = true');
});

test('the page fits the width of a phone', OPTIONS, async t => {
  const page = await openPage(t);
  for (const width of [320, 390, 800, 1280]) {
    await page.setViewportSize({ width, height: 800 });
    assert.ok((await page.evaluate('document.documentElement.scrollWidth')) <= width, `at ${width}`);
  }
});
