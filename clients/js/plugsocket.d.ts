/** Packets by opcode where no types are given: every opcode, with any content. */
export interface AnyPackets {
  [opcode: string]: { [key: string]: any };
}

/** Packets of the bundled application `feedback`, for use in a map of your own. */
export interface FeedbackPackets<Message = any> {
  feedback: { message: Message; uuid?: string; ident?: string; fromUUID?: string };
  broadcast: { message: Message; fromUUID?: string };
  echo: { message: Message };
}

/** Constraint of a map from opcodes to types of packets. These may leave out the key `opcode`. */
export type PacketMap<Packets> = { [Opcode in keyof Packets]: object };

/** The packet with this opcode. */
export type PacketOf<Packets, Opcode extends keyof Packets> = Packets[Opcode] & { opcode: Opcode };

/** Any of the packets, discriminated by `opcode`. */
export type AnyPacketOf<Packets> = { [Opcode in keyof Packets]: PacketOf<Packets, Opcode> }[keyof Packets];

/** An application may send packets without an opcode, which no map describes. */
export interface PacketWithoutOpcode {
  opcode?: undefined;
  [key: string]: unknown;
}

/** Text messages: a packet, or a string if the text is not a JSON object. */
export type MessageOf<Packets> = string extends keyof Packets
  ? { opcode?: string; [key: string]: any } | string
  : AnyPacketOf<Packets> | PacketWithoutOpcode | string;

/** What can be sent: a packet (as JSON), text (unchanged), or binary data. */
export type SendableOf<Packets> =
  | (string extends keyof Packets ? object : AnyPacketOf<Packets>)
  | string
  | ArrayBuffer
  | ArrayBufferView
  | Blob;

/** The names that `on`, `packet` and `packets` take: events of the client, and opcodes. */
export type EventName<Packets> = 'status' | 'message' | 'binary' | (keyof Packets & string);

/** What a listener of this name receives. */
export type EventOf<Packets, Name> = Name extends 'status'
  ? StatusChange
  : Name extends 'message'
    ? MessageOf<Packets>
    : Name extends 'binary'
      ? ArrayBuffer
      : Name extends keyof Packets
        ? PacketOf<Packets, Name>
        : never;

export type Status = StatusChange['status'];

/** A change of the connection; `status` says which of the other keys there are. */
export type StatusChange =
  | { status: 'connecting'; uuid?: undefined; error?: undefined; closeCode?: undefined; retryMs?: undefined }
  | { status: 'ready'; uuid: string; error?: undefined; closeCode?: undefined; retryMs?: undefined }
  /** `error`: why there is no connection; `retryMs`: the time until the next attempt. */
  | { status: 'waiting'; uuid?: undefined; error: string; closeCode: number | undefined; retryMs: number }
  /** `error`: why the client has ended, unless `close` was called. */
  | { status: 'closed'; uuid?: undefined; error?: string; closeCode?: number | undefined; retryMs?: undefined };

export interface SignalOptions {
  /** Ends the wait, or removes the listener; a promise is rejected with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface PacketsOptions extends SignalOptions {
  /** How many values may wait for the loop, 1000 by default; one more ends it with `full`. */
  maxBuffered?: number;
}

/** What the client needs of a WebSocket; browsers, Node and the package `ws` have such a class. */
export interface WebSocketLike {
  binaryType: any;
  readonly readyState: number;
  addEventListener(type: any, listener: any): void;
  send(data: any): void;
  close(code?: number, reason?: string): void;
}

/** A value, or a function that returns it, which is called for each attempt to connect. */
export type ValueOrFunction<Value> = Value | (() => Value | Promise<Value>);

/** Durations are in milliseconds; 0 disables a timeout. */
export interface PlugsocketOptions {
  /** The WebSocket class, by default the global one. Node has one from version 22 on. */
  WebSocket?: new (url: string, protocols?: any, options?: any) => WebSocketLike;
  /** Subprotocols to offer. */
  protocols?: ValueOrFunction<string | string[]>;
  /** Sent as `Authorization: Bearer TOKEN`. In pages use `protocols: ['bearer', token]`. */
  token?: ValueOrFunction<string | undefined>;
  /** Splits longer text messages into chunks of at most this many bytes, at least 16; 0: never. */
  chunkSize?: number;
  /** Maximum number of queued messages, 1000 by default; further ones are rejected as `full`. */
  maxQueued?: number;
  /** How often to send a message again that may have been handled; 0 by default. */
  resend?: number;
  /** Whether to reconnect after a lost connection; true by default. */
  reconnect?: boolean;
  /** The first wait before a reconnect, 500 by default. It doubles up to `reconnectMaxMs`. */
  reconnectMinMs?: number;
  /** The longest wait before a reconnect, 30000 by default. */
  reconnectMaxMs?: number;
  /** Ends after so many refusals of the same URL, protocols and token, 3 by default; 0: never. */
  refusedAttempts?: number;
  /** Rejects `ready` when no connection is ready within this time, 30000 by default. */
  readyDeadlineMs?: number;
  /** Closes a connection that is not `ready` within this time, 10000 by default. */
  readyTimeoutMs?: number;
  /** Closes a connection that does not acknowledge a message within this time, 60000 by default. */
  acknowledgeTimeoutMs?: number;
  /** Asks for a heartbeat after this much silence, 1000 to 600000, 25000 by default; 0: none. */
  heartbeatMs?: number;
  /** Closes the socket for good. */
  signal?: AbortSignal | undefined;
}

/** Connection that receives `feedback`: its uuid, or the name that a script announced. */
export type FeedbackTarget = string | { uuid: string } | { ident: string };

/** Why a message, a wait or a loop has failed. */
export class PlugsocketError extends Error {
  constructor(code: PlugsocketError['code'], message: string, closeCode?: number);
  name: 'PlugsocketError';
  /**
   * `full`: too many are waiting; `closed`: the socket is closed; `lost`: sent, not acknowledged;
   * `refused`: by the host; `timeout`: not ready within `readyDeadlineMs`.
   */
  code: 'full' | 'closed' | 'lost' | 'refused' | 'timeout';
  closeCode: number | undefined;
}

/**
 * Persistent connection to one resource. Sends messages in order, one at a time, each after the
 * acknowledgement of the previous one.
 *
 * `Received` maps opcodes to the packets that the application sends, `Sent` to those that it takes.
 */
export class Plugsocket<Received extends PacketMap<Received> = AnyPackets, Sent extends PacketMap<Sent> = Received> {
  /** Connects immediately. A URL is absolute, or relative to the page. */
  constructor(url?: ValueOrFunction<string>, options?: PlugsocketOptions);

  /** The URL of the resource, `ws:` or `wss:`; null until a function has returned the first one. */
  get url(): string | null;
  /** The uuid of this connection, or null while not ready. A new connection has a new uuid. */
  get uuid(): string | null;
  get status(): Status;
  /** Number of messages that are not acknowledged. */
  get queued(): number;
  /** Promise of the uuid of this connection, or of the next one. */
  get ready(): Promise<string>;
  /** Like `ready`, but a signal can end the wait. */
  whenReady(options?: SignalOptions): Promise<string>;

  /** Adds a listener; returns a function that removes it. */
  on<Name extends EventName<Received>>(name: Name, listener: (value: EventOf<Received, Name>) => void, options?: SignalOptions): () => boolean;
  /** Promise of the next value that `on(name)` would receive; rejected if the socket is closed. */
  packet<Name extends EventName<Received>>(name: Name, options?: SignalOptions): Promise<EventOf<Received, Name>>;
  /** Async iterator over the values that `on(name)` would receive; ends when the socket closes. */
  packets<Name extends EventName<Received>>(name: Name, options?: PacketsOptions): AsyncIterableIterator<EventOf<Received, Name>>;

  /** Queues one message; the promise is fulfilled with the `fyi` of its acknowledgement. */
  send(packet: SendableOf<Sent>, options?: SignalOptions): Promise<string>;
  /** Sends to every browser except this one. */
  broadcast(message: unknown, options?: SignalOptions): Promise<string>;
  /** Sends to one connection; the promise is fulfilled with `'delivered'` or `'gone'`. */
  feedback(to: FeedbackTarget, message: unknown, options?: SignalOptions): Promise<'delivered' | 'gone' | (string & {})>;
  /** Sends to this connection itself; arrives as a packet with the opcode `echo`. */
  echo(message: unknown, options?: SignalOptions): Promise<string>;

  /** Connects now: ends a wait, or opens a closed socket again. No effect while connected. */
  open(): void;
  /** Closes until `open` is called, and rejects all messages that are not acknowledged. */
  close(code?: number, reason?: string): void;
}
