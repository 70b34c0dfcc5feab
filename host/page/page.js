/**
 * The page on which everything can be tried: one section per bundled application, each on a connection of its own, so that
 * an application that is not mapped is a quiet note in its section and nothing else.
 *
 * Whatever comes from the network is shown through textContent only.
 */
import { Plugsocket } from './plugsocket.js';

const LOG_LENGTH = 200;
/** The bundled application's default lease is 300 s. */
const RENEW_MS = 60_000;
const DEMO_SECONDS = 20;
const BOOKS = [
  ['B-1040', 'The Left Hand of Darkness'],
  ['B-1041', 'Invisible Cities'],
  ['B-1042', 'A Room of One’s Own'],
  ['B-1043', 'The Master and Margarita'],
  ['B-1044', 'Die Vermessung der Welt'],
];

const byId = id => document.getElementById(id);

/** The address of a resource as seen from this page, wherever a proxy has mounted the host. */
const httpUrl = path => new URL(`..${path}`, location.href).href;

/** What is remembered for this tab, across reloads; a browser that forbids it forgets. */
const remembered = {
  read(name) {
    try {
      return sessionStorage.getItem(`plugsocket.${name}`);
    } catch {
      return null;
    }
  },
  write(name, value) {
    try {
      if (value === null) sessionStorage.removeItem(`plugsocket.${name}`);
      else sessionStorage.setItem(`plugsocket.${name}`, value);
    } catch {
      // Forgotten, then.
    }
  },
};

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const textOf = value => (typeof value === 'string' ? value : JSON.stringify(value));

/** crypto.randomUUID is missing on a page that came by plain http from another machine. */
const randomToken = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, '0')).join('');

function onSubmit(id, react) {
  byId(id).addEventListener('submit', event => {
    event.preventDefault();
    react();
  });
}

/** A connection whose state the section `name` shows. */
function connect(name, path, query = '') {
  const socket = new Plugsocket(`..${path}${query}`);
  const show = change => showStatus(name, path, socket, change);
  socket.on('status', show);
  show({ status: socket.status });
  return socket;
}

function showStatus(name, path, socket, { status, error, closeCode, retryMs }) {
  const pill = byId(`${name}-status`);
  pill.dataset.status = status;
  pill.textContent = { connecting: 'connecting', ready: 'connected', waiting: 'not available', closed: 'closed' }[status];
  const fieldset = document.querySelector(`fieldset[data-needs="${name}"]`);
  if (fieldset) {
    fieldset.disabled = status !== 'ready';
    // What was never there is not shown; what was there stays, greyed, with what it holds.
    fieldset.hidden &&= status !== 'ready';
  }
  const problem = byId(`${name}-problem`);
  // While it connects again the note stays, so that nothing flickers.
  if (status === 'connecting') return;
  problem.hidden = status === 'ready';
  if (status === 'ready') return problem.replaceChildren();
  const wasNeverThere = fieldset?.hidden && (closeCode === 1008 || closeCode === 1006);
  const advice = wasNeverThere ? `This section needs ${path} in plugins.toml.` : '';
  const why = status === 'closed' && closeCode === 1000 ? `The conversation is over (${error}).` : `${sentence(error ?? 'closed')} ${advice}`;
  const when = retryMs === undefined ? '' : `Next try in ${Math.max(1, Math.round(retryMs / 1000))} s.`;
  const text = element('span', '', `${why} ${when}`.replace(/\s+/g, ' ').trim());
  if (!byId(`${name}-retry`)) {
    const retry = element('button', 'quiet');
    retry.type = 'button';
    retry.id = `${name}-retry`;
    retry.addEventListener('click', () => socket.open());
    problem.replaceChildren(text, retry);
  } else problem.firstChild.replaceWith(text);
  byId(`${name}-retry`).textContent = status === 'closed' ? 'Connect again' : 'Try now';
}

const sentence = text => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;

/** What became of a message, in the words of this page. */
async function outcome(output, promise, words) {
  output.textContent = 'sending …';
  try {
    output.textContent = words(await promise);
  } catch (error) {
    output.textContent = `Not sent: ${error.message}.`;
  }
}

// Copying

async function copy(button) {
  const source = byId(button.dataset.copies);
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // No clipboard on a page that came by plain http from another machine: the older way, by selection.
    getSelection().selectAllChildren(source);
    isCopied = document.execCommand('copy');
  }
  button.textContent = isCopied ? 'Copied' : 'Press Ctrl+C';
  setTimeout(() => (button.textContent = 'Copy'), 1500);
}

for (const button of document.querySelectorAll('[data-copies]')) button.addEventListener('click', () => copy(button));

/** A text as one word of a POSIX shell; as a string of PHP. */
const shellQuoted = text => `'${text.replaceAll("'", "'\\''")}'`;
const phpQuoted = text => `'${text.replace(/['\\]/g, '\\$&')}'`;
const curl = (path, packet) => `curl -d ${shellQuoted(JSON.stringify(packet))} ${httpUrl(path)}`;

// This page's connection, broadcast, echo, feedback

function startWeb() {
  const web = connect('web', '/web');
  let connections = 0;

  web.on('status', ({ status, uuid }) => {
    byId('uuid').textContent = uuid ?? 'not connected';
    byId('uuid-copy').disabled = !uuid;
    if (status !== 'ready') return;
    byId('connections').textContent = connections += 1;
    showOneLiners(uuid);
  });
  showOneLiners('…');
  web.on('message', logPacket);
  byId('log-clear').addEventListener('click', () => byId('log').replaceChildren());

  onSubmit('broadcast-form', () =>
    outcome(byId('broadcast-result'), web.broadcast(byId('broadcast-input').value), () => 'Sent to every other browser.'));
  onSubmit('echo-form', () =>
    outcome(byId('echo-result'), web.echo(byId('echo-input').value), () => 'It came back: see the list of what was received.'));
  onSubmit('feedback-form', () =>
    outcome(byId('feedback-verdict'), web.feedback(byId('feedback-uuid').value.trim(), byId('feedback-input').value),
      verdict => ({
        delivered: 'Delivered.', gone: 'Gone: no connection has this uuid.', 'malformed uuid': 'Malformed uuid: copy all of its 101 characters.',
      })[verdict] ?? 'Sent.'));
}

function showOneLiners(uuid) {
  const packet = { opcode: 'feedback', uuid, message: '50 %' };
  byId('feedback-curl').textContent = curl('/php', packet);
  byId('feedback-php').textContent =
    `file_get_contents(${phpQuoted(httpUrl('/php'))}, false, stream_context_create(['http' => ['method' => 'POST', ` +
    `'header' => 'Content-Type: application/json', 'content' => ${phpQuoted(JSON.stringify(packet))}]]));`;
}

function logPacket(packet) {
  const entry = element('li');
  entry.dataset.opcode = packet.opcode ?? '';
  const { opcode, message, ...rest } = typeof packet === 'string' ? { message: packet } : packet;
  entry.append(element('span', 'tag', opcode ?? 'message'), element('time', '', new Date().toLocaleTimeString()));
  entry.append(element('span', 'body', textOf(message ?? rest) ?? ''));
  if (rest.fromUUID) entry.append(element('time', '', `from ${rest.fromUUID.slice(0, 8)}…`));
  byId('log').prepend(entry);
  while (byId('log').children.length > LOG_LENGTH) byId('log').lastChild.remove();
}

// Chat and talking echo

/** Adds a line at the end of a conversation, and keeps its end in sight. */
function say(logId, { from, text, className = '', color }) {
  const line = element('li', className);
  if (from) {
    const name = element('span', 'from', from);
    if (color) name.style.color = color;
    line.append(name);
  }
  line.append(text);
  const log = byId(logId);
  log.append(line);
  while (log.children.length > LOG_LENGTH) log.firstChild.remove();
  log.scrollTop = log.scrollHeight;
}

/** The chat escapes what people wrote for pages that use innerHTML; textContent wants the text itself. */
const ENTITIES = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'", '#39': "'", '#x27': "'" };
const unescaped = text => String(text).replace(/&(lt|gt|amp|quot|apos|#39|#x27);/g, (_, name) => ENTITIES[name]);

function startChat() {
  const chat = connect('chat', '/chat');
  byId('chat-name').value = remembered.read('chat.name') ?? `guest-${randomToken().slice(0, 4)}`;
  byId('chat-room').value = remembered.read('chat.room') ?? 'lobby';

  const join = () => {
    const [name, room] = [byId('chat-name').value, byId('chat-room').value];
    remembered.write('chat.name', name);
    remembered.write('chat.room', room);
    chat.send({ opcode: 'join', room, name });
  };
  const remark = text => say('chat-log', { text: unescaped(text), className: 'system' });
  const show = {
    joined: ({ room, members }) => remark(`You are in ${room} with ${members.join(', ')}`),
    system: ({ message }) => remark(message),
    error: ({ message }) => remark(message),
    usermsg: ({ name, message, color }) => say('chat-log', { from: unescaped(name), text: unescaped(message), color }),
    history: ({ messages }) => messages.forEach(message => show.usermsg(message)),
  };
  chat.on('message', packet => show[packet.type]?.(packet));
  chat.on('status', ({ status }) => status === 'ready' && join());
  onSubmit('chat-join-form', join);
  onSubmit('chat-form', () => {
    chat.send({ message: byId('chat-input').value });
    byId('chat-input').value = '';
  });
}

function startTalk() {
  const talk = connect('talk', '/talk');
  talk.on('message', answer => {
    // A broadcast reaches every connection with a dialog, this one too.
    if (answer.opcode !== 'broadcast') say('talk-log', { from: 'echo', text: textOf(answer) });
  });
  onSubmit('talk-form', () => {
    const text = byId('talk-input').value;
    say('talk-log', { from: 'you', text, className: 'mine' });
    talk.send(text);
    byId('talk-input').value = '';
  });
}

// Jobs

function startJobs() {
  const jobs = connect('jobs', '/jobs');
  const STILL_RUNS = ['running', 'aborting'];
  const NOTES = {
    demo: {
      started: 'Reload the page while it runs: the job stays.',
      ignored: 'The demo is switched off here (demo = true in plugins.toml). Start one for a script instead.',
    },
    start: { started: 'Now report from a shell on the server:', ignored: 'No job was started.' },
  };
  let job = remembered.read('job');

  const choose = chosen => {
    job = chosen;
    remembered.write('job', job);
    byId('jobs-job').hidden = job === null;
    byId('jobs-id').textContent = job;
    byId('jobs-curl').textContent = [
      curl('/jobs', { opcode: 'progress', job, text: 'half way', percent: 50 }),
      curl('/jobs', { opcode: 'done', job, text: 'finished' }),
    ].join('\n');
    show({ state: 'unknown', text: '' });
  };
  const show = ({ state, text, percent, elapsed }) => {
    byId('jobs-state').dataset.state = state;
    byId('jobs-state').textContent = state === 'unknown' ? 'no report yet' : state;
    byId('jobs-text').textContent = text ?? '';
    byId('jobs-elapsed').textContent = elapsed > 0 ? `${elapsed.toFixed(1)} s` : '';
    // A bar without a value shows work of unknown length, which is right only while there is work.
    if (typeof percent === 'number') byId('jobs-progress').value = percent;
    else if (STILL_RUNS.includes(state)) byId('jobs-progress').removeAttribute('value');
    else byId('jobs-progress').value = state === 'done' ? 100 : 0;
    byId('jobs-abort').disabled = state !== 'running';
    byId('jobs-demo').disabled = STILL_RUNS.includes(state);
  };
  const note = text => (byId('jobs-note').textContent = text);
  const start = async packet => {
    let isStarted = false;
    const end = jobs.on('job', () => (isStarted = true));
    // The answer comes before the acknowledgement; without one the application has ignored the wish.
    await jobs.send(packet).catch(() => {});
    end();
    note(NOTES[packet.opcode][isStarted ? 'started' : 'ignored']);
    byId('jobs-script').open = isStarted && packet.opcode === 'start';
  };

  jobs.on('job', packet => choose(packet.job));
  jobs.on('progress', packet => packet.job === job && show(packet));
  jobs.on('error', ({ error, message }) => note(sentence(textOf(error ?? message ?? 'refused'))));
  jobs.on('status', ({ status }) => status === 'ready' && job !== null && jobs.send({ opcode: 'watch', job }));
  byId('jobs-demo').addEventListener('click', () => start({ opcode: 'demo', seconds: DEMO_SECONDS }));
  byId('jobs-start').addEventListener('click', () => start({ opcode: 'start' }));
  byId('jobs-abort').addEventListener('click', () => jobs.send({ opcode: 'abort', job }));
  byId('jobs-forget').addEventListener('click', () => choose(null));
  choose(job);
}

// Locks

function startLocks() {
  const holder = remembered.read('holder') ?? randomToken();
  remembered.write('holder', holder);
  const name = `Desk ${holder.slice(0, 4)}`;
  byId('locks-name').textContent = name;
  const locks = connect('locks', '/locks', `?${new URLSearchParams({ holder, name })}`);
  const note = text => (byId('locks-note').textContent = text);
  const titles = new Map(BOOKS);
  const titlesOf = ids => ids.map(id => titles.get(id) ?? id).join(', ');
  let mine = new Set();
  const others = new Map();

  const toggle = (id, isMine) => locks.send({ opcode: isMine ? 'unlock' : 'lock', ids: [id] });
  const rows = new Map(BOOKS.map(([id, title]) => [id, bookRow(id, title, isMine => toggle(id, isMine))]));
  byId('locks-table').tBodies[0].append(...[...rows.values()].map(({ row }) => row));
  const show = () => {
    for (const [id, { update }] of rows) update(mine.has(id), others.get(id));
    byId('locks-unlock-all').disabled = mine.size === 0;
  };

  locks.on('locks', packet => {
    mine = new Set(packet.mine);
    for (const id of mine) others.delete(id);
    for (const { id, by } of packet.locked) others.set(id, by);
    note('');
    show();
  });
  locks.on('locked', ({ ids, by }) => {
    for (const id of ids) others.set(id, by);
    show();
  });
  locks.on('unlocked', ({ ids }) => {
    for (const id of ids) others.delete(id);
    note(`Free again: ${titlesOf(ids)}.`);
    show();
  });
  locks.on('expired', ({ ids }) => {
    for (const id of ids) mine.delete(id);
    note(`Your time is over for ${titlesOf(ids)}.`);
    show();
  });
  locks.on('error', ({ error }) => note(sentence(textOf(error))));
  locks.on('status', ({ status }) => {
    if (status !== 'ready') return;
    others.clear();
    locks.send({ opcode: 'list' });
  });
  byId('locks-unlock-all').addEventListener('click', () => locks.send({ opcode: 'unlock' }));
  setInterval(() => mine.size > 0 && locks.status === 'ready' && locks.send({ opcode: 'renew' }), RENEW_MS);
  show();
}

/** One line of the table, and how to show who has the book. */
function bookRow(id, title, toggle) {
  const row = element('tr');
  row.dataset.id = id;
  const [who, action, button] = [element('td'), element('td'), element('button', 'quiet')];
  button.type = 'button';
  button.addEventListener('click', () => toggle(row.dataset.state === 'mine'));
  action.append(button);
  row.append(element('td', '', title), who, action);
  const update = (isMine, by) => {
    row.dataset.state = isMine ? 'mine' : by === undefined ? 'free' : 'other';
    who.textContent = isMine ? 'you' : by ?? 'free';
    button.textContent = isMine ? 'Unlock' : 'Lock';
    button.setAttribute('aria-label', `${button.textContent} ${title}`);
    button.disabled = row.dataset.state === 'other';
  };
  return { row, update };
}

// Inspector

/** One packet of the inspected connection, or its end. */
function packetEntry(direction, data) {
  let packet = null;
  try {
    packet = JSON.parse(data);
  } catch {
    // Not JSON.
  }
  const isBinary = typeof data !== 'string';
  const bytes = isBinary ? new Uint8Array(data) : new TextEncoder().encode(data);
  // JavaScript would round such a number.
  const isExact = packet !== null && !/\d{16}/.test(data);
  const hex = () => Array.from(bytes.subarray(0, 64), byte => byte.toString(16).padStart(2, '0')).join(' ');
  const body = isBinary ? hex() : isExact ? JSON.stringify(packet, null, 2) : data;
  const opcode = packet?.opcode ?? (isBinary ? 'binary' : 'message');
  const entry = element('li');
  Object.assign(entry.dataset, { direction, opcode });
  const time = new Date().toISOString().slice(11, 23);
  const arrow = { in: '↓', out: '↑', end: '■' }[direction];
  const size = direction === 'end' ? '' : ` · ${bytes.length} bytes`;
  entry.append(element('span', 'tag', `${arrow} ${direction === 'end' ? 'end' : textOf(opcode)}`), element('time', '', `${time} UTC${size}`));
  entry.append(element('span', 'body', body.slice(0, 10_000)));
  return entry;
}

/** Shows what passes on a plain WebSocket to any resource, also the host's own packets. */
function startInspector() {
  const log = byId('inspect-log');
  const filter = byId('inspect-filter');
  let socket = null;
  byId('inspect-path').value = new URLSearchParams(location.search).get('resource') ?? remembered.read('inspect') ?? '/echo';

  const apply = entry => (entry.hidden = !entry.textContent.toLowerCase().includes(filter.value.toLowerCase()));
  const record = (direction, data) => {
    const entry = packetEntry(direction, data);
    apply(entry);
    log.prepend(entry);
    while (log.children.length > LOG_LENGTH) log.lastChild.remove();
  };
  const show = status => {
    byId('inspect-status').dataset.status = status;
    byId('inspect-status').textContent = status === 'ready' ? 'connected' : status;
    byId('inspect-send').disabled = status !== 'ready';
  };
  const open = () => {
    socket?.close();
    const path = byId('inspect-path').value.replace(/^\/?/, '/');
    remembered.write('inspect', path);
    const opened = new WebSocket(httpUrl(path).replace(/^http/, 'ws'));
    opened.binaryType = 'arraybuffer';
    const react = act => event => opened === socket && act(event);
    opened.addEventListener('open', react(() => show('ready')));
    opened.addEventListener('message', react(({ data }) => record('in', data)));
    opened.addEventListener('close', react(({ code, reason }) => {
      record('end', `${code} ${reason}`.trim());
      show('closed');
    }));
    socket = opened;
    show('connecting');
  };

  onSubmit('inspect-form', open);
  onSubmit('inspect-send-form', () => {
    if (socket?.readyState !== WebSocket.OPEN) return;
    record('out', byId('inspect-input').value);
    socket.send(byId('inspect-input').value);
  });
  filter.addEventListener('input', () => [...log.children].forEach(apply));
  byId('inspect-clear').addEventListener('click', () => log.replaceChildren());
}

startWeb();
startJobs();
startLocks();
startChat();
startTalk();
startInspector();
