/** Tests of examples/ in a real browser, against the mock host. Skipped without Chromium. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, skip } from './browser.js';
import { MockHost, UNKNOWN_UUID } from './mock_host.js';

const OPTIONS = { skip, timeout: 60_000 };
const require = createRequire(import.meta.url);
const TYPES = { js: 'text/javascript', html: 'text/html' };

let browser;

before(async () => {
  if (!skip) browser = await launch();
});

after(() => browser?.close());

/** Starts a host that serves the examples; returns it with a browser and the function openPage. */
async function setUp(t) {
  const host = await MockHost.start();
  const context = await browser.newContext();
  const errors = [];
  t.after(async () => {
    await context.close();
    await host.stop();
    assert.deepEqual(errors, []);
  });
  const serve = (path, body) => host.files.set(path, { type: TYPES[path.split('.').at(-1)], body });
  for (const name of ['react.js', 'shared-worker/shared.js', 'shared-worker/worker.js']) {
    serve(`/examples/${name}`, readFileSync(new URL(`../examples/${name}`, import.meta.url)));
  }
  const openPage = async (body, script) => {
    serve('/test.html', `<!doctype html><link rel="icon" href="data:,">${body}`);
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on('pageerror', error => errors.push(error.message));
    page.on('console', message => ['error', 'warning'].includes(message.type()) && errors.push(message.text()));
    if (script) await page.addInitScript(script);
    await page.goto(`http://127.0.0.1:${host.port}/test.html`);
    return page;
  };
  return { host, serve, openPage };
}

const nextConnection = host => new Promise(resolve => host.wss.once('connection', ws => resolve(ws)));
const closeOf = ws => new Promise(resolve => ws.once('close', resolve));

/** React has CommonJS modules only: wraps one of them, `package/module`, for the browser. */
function wrapped(specifier, imports) {
  const [, name, module] = specifier.match(/^(.*)\/(.*)$/);
  const file = join(dirname(require.resolve(`${name}/package.json`)), 'cjs', `${module}.development.js`);
  const exports = Object.keys(require(file));
  const names = Object.keys(imports);
  return `${names.map((name, number) => `import m${number} from '${imports[name]}';`).join('\n')}
const module = { exports: {} };
const { exports } = module;
const require = name => ({ ${names.map((name, number) => `'${name}': m${number}`).join(', ')} })[name];
const process = { env: { NODE_ENV: 'development' } };
${readFileSync(file, 'utf8')}
export default module.exports;
export const { ${exports.join(', ')} } = module.exports;
`;
}

const REACT_PAGE = `<div id="root"></div>
<script type="importmap">{ "imports": {
  "react": "/react.js", "react-dom/client": "/react-dom-client.js", "plugsocket-client": "/plugsocket/plugsocket.js"
} }</script>
<script type="module" src="/view.js"></script>`;

const VIEW = `
import { StrictMode, createElement, useEffect } from 'react';
import { createRoot } from 'react-dom/client';
import { usePacket, usePackets, usePlugsocket } from '/examples/react.js';

globalThis.seen = [];
globalThis.effects = 0;
function View({ id }) {
  const { status, uuid, socket } = usePlugsocket('/web');
  const echo = usePacket('/web', 'echo');
  usePackets('/web', 'echo', ({ message }) => seen.push(id + message));
  useEffect(() => void (effects += 1), []);
  return createElement('button', { id, onClick: () => socket.echo('hello') }, status + ' ' + uuid + ' ' + (echo?.message ?? 'nothing'));
}
globalThis.mount = (...ids) => {
  globalThis.rendered ??= createRoot(document.querySelector("#root"));
  rendered.render(createElement(StrictMode, null, ids.map(id => createElement(View, { id, key: id }))));
};
mount('one', 'two');
`;

test('React components share one connection, also in StrictMode', OPTIONS, async t => {
  const { host, serve, openPage } = await setUp(t);
  serve('/react.js', wrapped('react/react', {}));
  serve('/scheduler.js', wrapped('scheduler/scheduler', {}));
  serve('/react-dom.js', wrapped('react-dom/react-dom', { react: '/react.js' }));
  const imports = { react: '/react.js', 'react-dom': '/react-dom.js', scheduler: '/scheduler.js' };
  serve('/react-dom-client.js', wrapped('react-dom/react-dom-client', imports));
  serve('/view.js', VIEW);

  const connected = nextConnection(host);
  const page = await openPage(REACT_PAGE);
  const closed = closeOf(await connected);
  const [{ uuid }] = host.connections;
  const shows = (id, text) => page.locator(`#${id}`, { hasText: text }).waitFor();
  for (const id of ['one', 'two']) await shows(id, `ready ${uuid} nothing`);
  assert.equal(await page.evaluate('effects'), 4, 'StrictMode mounts twice');

  await page.click('#one');
  for (const id of ['one', 'two']) await shows(id, `ready ${uuid} hello`);
  assert.deepEqual(await page.evaluate('seen'), ['onehello', 'twohello']);

  // Another component takes over before the connection is closed, and shows the newest packet.
  await page.evaluate('mount("three")');
  await shows('three', `ready ${uuid} hello`);
  await page.evaluate('mount()');
  await closed;
  assert.equal(host.handshakes, 1);

  await page.evaluate('mount("four")');
  await shows('four', 'ready');
  assert.equal(host.handshakes, 2);
  assert.notEqual([...host.connections][0].uuid, uuid);
});

test('React renders on a server without a connection', async () => {
  const { createElement } = await import('react');
  const { renderToString } = await import('react-dom/server');
  const { usePacket, usePlugsocket } = await import('../examples/react.js');
  const View = () => `${usePlugsocket('/web').status} ${usePacket('/web', 'echo')}`;
  assert.equal(renderToString(createElement(View)), 'connecting undefined');
});

/** Opens the socket of the example, and waits until it is ready. */
const openSocket = page =>
  page.evaluate(async () => {
    const { openShared } = await import('/examples/shared-worker/shared.js');
    globalThis.socket = openShared('/web');
    globalThis.seen = [];
    socket.on('feedback', ({ message }) => seen.push(message));
    globalThis.statusIs = status =>
      new Promise(resolve => {
        socket.on('status', change => change.status === status && resolve(change));
        if (socket.status === status) resolve(socket);
      });
    globalThis.arrived = count => new Promise(resolve => {
      const check = () => seen.length >= count && resolve(seen);
      socket.on('feedback', check);
      check();
    });
    await statusIs('ready');
    return socket.uuid;
  });

test('two tabs share one connection in a shared worker', OPTIONS, async t => {
  const { host, openPage } = await setUp(t);
  const pages = [await openPage(''), await openPage('')];
  const uuids = [await openSocket(pages[0]), await openSocket(pages[1])];
  const [{ ws, uuid, send }] = host.connections;
  assert.deepEqual([host.connections.size, host.handshakes, uuids], [1, 1, [uuid, uuid]]);

  send({ opcode: 'feedback', message: 'to both' });
  for (const page of pages) assert.deepEqual(await page.evaluate('arrived(1)'), ['to both']);
  assert.equal(await pages[0].evaluate(`socket.feedback('${uuid}', 'from one')`), 'delivered');
  assert.equal(await pages[1].evaluate(`socket.feedback('${UNKNOWN_UUID}', '')`), 'gone');
  assert.deepEqual(await pages[1].evaluate('arrived(2)'), ['to both', 'from one']);
  assert.equal(await pages[0].evaluate("socket.send(5n).catch(error => error.name)"), 'PlugsocketError');

  // The connection belongs to the tabs that are left.
  await pages[0].close();
  assert.equal(await pages[1].evaluate(`socket.feedback(socket.uuid, 'still here')`), 'delivered');
  const again = await openPage('');
  assert.equal(await openSocket(again), uuid);
  const closed = closeOf(ws);
  await again.evaluate('socket.close()');
  assert.equal(await again.evaluate("socket.echo('').catch(error => error.code)"), 'closed');
  assert.equal(host.connections.size, 1);
  await pages[1].evaluate('socket.close()');
  await closed;

  const renewed = nextConnection(host);
  const uuidAfter = await openSocket(again);
  await renewed;
  assert.notEqual(uuidAfter, uuid);
});

test('without shared workers every tab has its own connection', OPTIONS, async t => {
  const { host, openPage } = await setUp(t);
  const script = 'delete globalThis.SharedWorker';
  const pages = [await openPage('', script), await openPage('', script)];
  const uuids = await Promise.all(pages.map(openSocket));
  assert.deepEqual(uuids.sort(), [...host.connections].map(({ uuid }) => uuid).sort());
  assert.equal(host.connections.size, 2);
});
