/** Type test of `require`: its declarations are those of the ES module. */
import client = require('plugsocket-client');

const socket: client.Plugsocket<{ news: { headline: string } }> = new client.Plugsocket('wss://host/web');
socket.on('news', ({ headline }) => headline.length);
// @ts-expect-error not a string
socket.close('1000');
