/**
 * Type test: `tsc` checks the declarations against these uses; nothing runs it. Each line below an
 * `@ts-expect-error` must be an error.
 */
import { Plugsocket, PlugsocketError } from 'plugsocket-client';
import type { FeedbackPackets, StatusChange } from 'plugsocket-client';

type Is<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const is = <A, B>(_: Is<A, B>) => {};

interface Received {
  news: { headline: string };
  progress: { job: string; percent: number };
}
interface Sent {
  watch: { job: string };
}
declare const signal: AbortSignal;
const socket = new Plugsocket<Received, Sent>('/jobs', { signal, token: async () => undefined });

const remove = socket.on('progress', packet => {
  is<typeof packet.percent, number>(true);
  is<typeof packet.opcode, 'progress'>(true);
  // @ts-expect-error of another packet
  packet.headline;
});
remove();
socket.on('status', change => is<typeof change, StatusChange>(true), { signal });
socket.on('status', ({ status, uuid, error, retryMs }) => {
  if (status === 'ready') is<typeof uuid, string>(true);
  else if (status === 'waiting') is<[typeof error, typeof retryMs], [string, number]>(true);
  else is<typeof uuid, undefined>(true);
});
socket.on('binary', bytes => is<typeof bytes, ArrayBuffer>(true));
socket.on('message', message => {
  if (typeof message === 'string') return message.length;
  if (message.opcode === 'news') return is<typeof message.headline, string>(true);
  if (message.opcode === undefined) return is<typeof message.type, unknown>(true);
  return is<typeof message.percent, number>(true);
});
// @ts-expect-error no packet has this opcode
socket.on('other', () => {});

const loop = async () => {
  for await (const { headline } of socket.packets('news', { signal, maxBuffered: 5 })) is<typeof headline, string>(true);
  const { percent } = await socket.packet('progress', { signal });
  is<typeof percent, number>(true);
  is<Awaited<ReturnType<typeof socket.whenReady>>, string>(true);
  await socket.whenReady({ signal });
};
loop().catch((error: unknown) => {
  if (!(error instanceof PlugsocketError)) throw error;
  if (error.code === 'lost' || error.code === 'timeout') console.log(error.closeCode ?? 0);
  // @ts-expect-error no such code
  return error.code === 'none';
});

socket.send({ opcode: 'watch', job: '7' }, { signal }).then(fyi => is<typeof fyi, string>(true));
socket.send('text');
socket.send(new Uint8Array(3));
// @ts-expect-error a key is missing
socket.send({ opcode: 'watch' });
// @ts-expect-error a packet that is only received
socket.send({ opcode: 'news', headline: '' });
// @ts-expect-error not a packet
socket.send(5);

/** One map serves both directions. */
const both = new Plugsocket<FeedbackPackets<{ percent: number }>>(() => '/web');
both.on('feedback', ({ message }) => is<typeof message, { percent: number }>(true));
both.send({ opcode: 'echo', message: { percent: 5 } });
both.feedback({ ident: 'printer' }, 'page 1').then(verdict => verdict === 'gone');

/** Without a map, every packet is accepted. */
const untyped = new Plugsocket();
untyped.on('anything', packet => packet.whatever.deeply);
untyped.on('message', message => typeof message === 'string' || message.type);
untyped.on('status', ({ status, retryMs = 0 }) => status === 'waiting' && retryMs / 1000);
untyped.send({ opcode: 'anything', number: 5 });
untyped.packet('news').then(packet => packet.headline);
is<typeof untyped.uuid, string | null>(true);

class Mine extends WebSocket {}
new Plugsocket('/web', { WebSocket: Mine, protocols: () => ['bearer', 'token'] });
// @ts-expect-error no such option
new Plugsocket('/web', { chunksize: 5 });
// @ts-expect-error values of a map are packets
new Plugsocket<{ news: string }>();
