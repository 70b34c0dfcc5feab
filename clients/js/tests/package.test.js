/** Tests of the package as it is published; `npm run build` makes its CommonJS files. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import WebSocket from 'ws';
import * as module from 'plugsocket-client';
import { MockHost } from './mock_host.js';

const require = createRequire(import.meta.url);
const read = name => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');

/** Names that a declaration of a class or an interface lists. */
function declared(kind, name) {
  const [, body] = read('plugsocket.d.ts').match(new RegExp(`^export ${kind} ${name}\\b.*?\\{$(.*?)^\\}`, 'ms'));
  const members = [...body.matchAll(/^  (?:get )?(\w+)\??[(<:]/gm)].map(([, member]) => member);
  return [...new Set(members)].sort();
}

test('require has the same exports and the same client', { timeout: 10_000 }, async t => {
  const commonjs = require('plugsocket-client');
  assert.deepEqual(Object.keys(commonjs).sort(), Object.keys(module).sort());
  const host = await MockHost.start();
  const socket = new commonjs.Plugsocket(host.url('/web'), { WebSocket });
  t.after(() => (socket.close(), host.stop()));
  assert.equal(await socket.feedback(await socket.ready, 'hello'), 'delivered');
  socket.close();
  assert.ok((await socket.echo('').catch(error => error)) instanceof commonjs.PlugsocketError);
});

test('the declarations list the methods and properties of the client', () => {
  const members = Object.getOwnPropertyNames(module.Plugsocket.prototype);
  assert.deepEqual(declared('class', 'Plugsocket'), members.sort());
  assert.equal(read('plugsocket.d.cts'), read('plugsocket.d.ts'));
});

test('the declarations and README list the options of the client', () => {
  const [, body] = read('plugsocket.js').match(/^const DEFAULTS = \{$(.*?)^\};/ms);
  const options = [...body.matchAll(/^  (\w+):/gm)].map(([, option]) => option);
  assert.deepEqual(declared('interface', 'PlugsocketOptions'), options.sort());
  const readme = read('README.md');
  for (const option of options) assert.ok(readme.includes(`\`${option}\``), option);
});
