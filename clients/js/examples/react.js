/**
 * React hooks for the client. Copy this file into your application and adapt it:
 *
 *     function Progress() {
 *       const { status, error } = usePlugsocket('/web');
 *       const packet = usePacket('/web', 'feedback');
 *       return <p>{status === 'ready' ? packet?.message : error}</p>;
 *     }
 *
 * All components with the same URL share one connection, which is opened when the first of them is
 * mounted. Nothing is opened while rendering, because React may render without mounting, and on a
 * server.
 */
import { useCallback, useEffect, useRef, useSyncExternalStore } from 'react';
import { Plugsocket } from 'plugsocket-client';

/**
 * How long a connection stays open without a component. StrictMode mounts every component twice,
 * and a change of the view often unmounts one user of a connection before it mounts the next.
 */
const LINGER_MS = 1000;

/** State of a component that is not mounted yet. */
const UNMOUNTED = { status: 'connecting', socket: null };

/** By URL: { socket, state, latest, users, timer }. */
const connections = new Map();

function open(url) {
  const socket = new Plugsocket(url);
  const connection = { socket, state: { ...UNMOUNTED, socket }, latest: new Map(), users: 0, timer: null };
  // The first listener, so that the state is up to date when those of the components are called.
  socket.on('status', change => (connection.state = { ...change, socket }));
  connections.set(url, connection);
  return connection;
}

/** Adds a listener, and opens the connection if needed; returns a function that undoes both. */
function subscribe(url, name, listener) {
  const connection = connections.get(url) ?? open(url);
  connection.users += 1;
  clearTimeout(connection.timer);
  const remove = connection.socket.on(name, value => listener(value, connection));
  return () => {
    remove();
    connection.users -= 1;
    if (connection.users > 0) return;
    connection.timer = setTimeout(() => {
      connections.delete(url);
      connection.socket.close();
    }, LINGER_MS);
  };
}

/** Returns the state of the connection, `{ status, uuid, error, … }`, and its `socket`. */
export function usePlugsocket(url) {
  const follow = useCallback(notify => subscribe(url, 'status', notify), [url]);
  const state = () => connections.get(url)?.state ?? UNMOUNTED;
  return useSyncExternalStore(follow, state, () => UNMOUNTED);
}

/** Returns the newest packet with this opcode; undefined before the first one. */
export function usePacket(url, opcode) {
  const follow = useCallback(
    notify =>
      subscribe(url, opcode, (packet, { latest }) => {
        latest.set(opcode, packet);
        notify();
      }),
    [url, opcode],
  );
  const newest = () => connections.get(url)?.latest.get(opcode);
  return useSyncExternalStore(follow, newest, () => undefined);
}

/** Calls the listener of the last render with every packet with this opcode. */
export function usePackets(url, opcode, listener) {
  const current = useRef(listener);
  useEffect(() => {
    current.current = listener;
  });
  useEffect(() => subscribe(url, opcode, packet => current.current(packet)), [url, opcode]);
}
