<?php
/**
 * PHP client of plugsocket, for scripts on the server: one file, no dependencies, PHP 7.4 or newer.
 *
 * A script posts a single message, or keeps a connection for many:
 *
 *     require 'plugsocket.php';
 *     plugsocket_post('http://127.0.0.1:8095/php', ['opcode' => 'feedback', 'uuid' => $uuid, 'message' => '50 %']);
 *
 *     $backend = new Plugsocket\Backend('127.0.0.1:8095', '/php', ['reconnect' => 60]);
 *     $isThere = $backend->feedback($uuid, '50 %');
 *
 * The host accepts both only from addresses in its `allowed_ips`.
 */

declare(strict_types=1);

namespace Plugsocket {

    use Closure;
    use InvalidArgumentException;
    use RuntimeException;

    /** Base class of all exceptions of this client. */
    class Exception extends RuntimeException
    {
    }

    /**
     * No connection, or it ended: the host is not there, restarts, or has no place. A message that was
     * being sent may have been handled.
     */
    class ConnectionException extends Exception
    {
        /** Seconds after which the host asks to connect again; null: it did not say. */
        public ?int $retryAfter;

        public function __construct(string $message = '', ?int $retryAfter = null)
        {
            parent::__construct($message);
            $this->retryAfter = $retryAfter;
        }
    }

    /** No answer in time. The message may have been handled; the connection is closed. */
    class TimeoutException extends ConnectionException
    {
    }

    /** The host refused: unknown resource, address not allowed, no valid token, message too long. */
    class RefusedException extends Exception
    {
    }

    /**
     * Connection to one resource, in the line protocol, over plain TCP, TLS or a Unix socket.
     *
     * Methods that send return after the host has acknowledged the message. With the option
     * `reconnect`, a lost connection is opened again, and a message that surely was not handled is sent
     * over the new one; reports of a job are sent again in any case, because repeating them changes
     * nothing. Without it, create a new object after a ConnectionException.
     *
     * @phpstan-type Packet array<string, mixed>
     * @phpstan-type Options array{ident?: string, timeout?: float, reconnect?: float, heartbeat?: int, token?: string|(Closure(): string), context?: resource}
     */
    final class Backend
    {
        private const READ_BYTES = 65536;
        /** Maximum number of packets kept for `receive`; the oldest are dropped first. */
        private const KEPT_PACKETS = 1000;
        /** Seconds before the first and the last attempts to reconnect. */
        private const FIRST_PAUSE = 0.1;
        private const LONGEST_PAUSE = 2.0;
        /** The host's reason when it stops, which has no `retry_after` with `retry_spread = 0`. */
        private const STOPS = 'server shutting down';

        /** @var resource|null */
        private $stream;
        private string $address;
        /** @var Options */
        private array $options;
        /** Whether `close` was called. */
        private bool $isClosed = false;
        /** Whether a message, or the opening, awaits its answer: only then can the host refuse it. */
        private bool $isAsking = false;
        /** Bytes of the current message that were written, and with how many the host may handle it. */
        private int $sent = 0;
        private int $whole = 0;
        /** Bytes read after the last complete line. */
        private string $unread = '';
        /** @var list<Packet> packets kept for `receive` */
        private array $received = [];
        private float $timeout;
        private float $reconnect;
        private int $heartbeat;
        /** When the last byte came; null before the first heartbeat: an older host sends none. */
        private ?float $heardAt = null;
        private string $resource;
        private string $uuid = '';

        /**
         * Connects and waits for `ready`.
         *
         * @param string $address `host:port`, `[v6]:port`, `tcp://…`, `tls://…` or `unix:///path`
         * @param string $resource path: `/php` for feedback and broadcast, `/jobs` for progress
         * @param Options $options
         *     `ident`: name under which others reach this script by feedback;
         *     `timeout`: seconds to connect, and for the answer to each message (default 10);
         *     `reconnect`: seconds for which to try to connect again (default 0: not at all);
         *     `heartbeat`: asks the host for a sign of life after so many seconds of silence, 1 to 600, so
         *     that `receive` notices a dead network (default 0: not);
         *     `token`: sent as `Authorization: Bearer TOKEN`, or a closure that returns it;
         *     `context`: stream context, for TLS options
         * @throws ConnectionException no connection, or no answer in time (TimeoutException)
         * @throws RefusedException the host refused
         * @throws InvalidArgumentException unknown option or invalid value
         */
        public function __construct(string $address = '127.0.0.1:8095', string $resource = '/php', array $options = [])
        {
            $unknown = array_diff(array_keys($options), ['ident', 'timeout', 'reconnect', 'heartbeat', 'token', 'context']);
            if ($unknown !== []) {
                throw new InvalidArgumentException('there is no option ' . implode(', ', $unknown));
            }
            if (preg_match('/[\r\n]/', $options['ident'] ?? '') || preg_match('/\s|^$/', $resource)) {
                throw new InvalidArgumentException('an ident has no line end, and a resource no space');
            }
            $this->heartbeat = (int) ($options['heartbeat'] ?? 0);
            if ($this->heartbeat < 0 || $this->heartbeat > 600 || preg_match('/[?&]heartbeat\b/', $resource)) {
                throw new InvalidArgumentException('heartbeat is an option from 0 to 600 seconds, and reserved in a query');
            }
            $this->address = $address;
            $this->resource = $resource;
            $this->options = $options;
            $this->timeout = (float) ($options['timeout'] ?? 10.0);
            $this->reconnect = (float) ($options['reconnect'] ?? 0.0);
            $this->persist(function (): void {
                $this->connect();
            }, true);
        }

        public function __destruct()
        {
            $this->close();
        }

        /** Returns the uuid of this connection. */
        public function uuid(): string
        {
            return $this->uuid;
        }

        /**
         * Sends to the browser with this uuid.
         *
         * @param mixed $message any JSON value
         * @return bool whether it was delivered; false: this browser is no longer connected
         */
        public function feedback(string $uuid, $message): bool
        {
            $packet = ['opcode' => 'feedback', 'uuid' => $uuid, 'message' => $message, 'fromUUID' => $this->uuid];
            return $this->verdict($packet) === 'delivered';
        }

        /**
         * Sends to the connection that announced this ident.
         *
         * @param mixed $message
         */
        public function feedbackIdent(string $ident, $message): bool
        {
            $packet = ['opcode' => 'feedback', 'ident' => $ident, 'message' => $message, 'fromUUID' => $this->uuid];
            return $this->verdict($packet) === 'delivered';
        }

        /**
         * Sends to every browser.
         *
         * @param mixed $message
         */
        public function broadcast($message): void
        {
            $this->send(['opcode' => 'broadcast', 'message' => $message]);
        }

        /**
         * Reports the progress of a job; for a connection to the application `jobs`.
         *
         * @param float|null $percent 0 to 100; null: unknown
         * @param string|null $uuid browser that watches the job from now on
         * @return bool whether someone asked to abort: then call `finish($job, 'aborted', …)`
         * @throws RefusedException the resource or the job is not one that takes reports
         */
        public function progress(string $job, string $text, ?float $percent = null, ?string $uuid = null): bool
        {
            $packet = ['opcode' => 'progress', 'job' => $job, 'text' => $text, 'percent' => $percent, 'uuid' => $uuid];
            $next = $this->request(array_filter($packet, static fn ($value) => $value !== null), true);
            $verdict = text($next['fyi'] ?? '');
            if (!in_array($verdict, ['abort', 'watched', 'unwatched'], true)) {
                throw new RefusedException("{$this->resource} did not take the report; is it the resource of the jobs?");
            }
            return $verdict === 'abort';
        }

        /** Sends the last report of a job: `done`, `failed` or `aborted`. */
        public function finish(string $job, string $state = 'done', string $text = ''): void
        {
            $this->request(['opcode' => $state, 'job' => $job, 'text' => $text], true);
        }

        /**
         * Sends any packet.
         *
         * @param Packet $packet
         * @return Packet the acknowledgement; its `fyi` is the application's answer
         * @throws ConnectionException broken, or no answer in time (TimeoutException)
         * @throws RefusedException the host closed the connection because of it
         * @throws \JsonException the packet cannot be encoded
         */
        public function send(array $packet): array
        {
            return $this->request($packet, false);
        }

        /**
         * Returns the next packet that was sent to this script (feedback, echo), in order.
         *
         * @param float $seconds how long to wait; 0: do not wait
         * @return Packet|null null: no packet
         */
        public function receive(float $seconds = 0.0): ?array
        {
            return array_shift($this->received) ?? $this->persist(fn () => $this->read(microtime(true) + $seconds), true);
        }

        /** Closes the connection, as the destructor does. */
        public function close(): void
        {
            $this->isClosed = true;
            $this->drop();
        }

        private function drop(): void
        {
            if ($this->stream !== null) {
                fclose($this->stream);
                $this->stream = null;
            }
        }

        /** @param Packet $packet */
        private function verdict(array $packet): string
        {
            return text($this->send($packet)['fyi'] ?? '');
        }

        /**
         * Sends a packet and returns its acknowledgement.
         *
         * @param Packet $packet
         * @param bool $mayRepeat whether handling it twice is harmless
         * @return Packet
         */
        private function request(array $packet, bool $mayRepeat): array
        {
            return $this->persist(function () use ($packet): array {
                if (isset($packet['fromUUID'])) {
                    $packet['fromUUID'] = $this->uuid; // of the connection that it goes over
                }
                // JSON escapes line ends, so one message is one line.
                $line = json_encode((object) $packet, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES) . "\n";
                // Without the line feed at its end, the host may take a message as whole.
                [$this->sent, $this->whole] = [0, strlen($line) - 1];
                $this->notice();
                $until = microtime(true) + $this->timeout;
                $this->write($line, $until);
                return $this->await('next', $until);
            }, $mayRepeat);
        }

        /**
         * Works over a connection; with `reconnect`, over a new one after a loss, unless the host may
         * have handled the message and must not handle it twice.
         *
         * @template T
         * @param callable(): T $work
         * @return T
         */
        private function persist(callable $work, bool $mayRepeat)
        {
            $until = microtime(true) + $this->reconnect;
            for ($pause = self::FIRST_PAUSE; ; $pause = min(2 * $pause, self::LONGEST_PAUSE)) {
                $isConnected = false;
                try {
                    if ($this->reconnect > 0.0 && !$this->isClosed) {
                        $this->connect();
                    }
                    $isConnected = true;
                    return $work();
                } catch (ConnectionException $lost) {
                    $isHandled = $isConnected && $this->sent >= $this->whole && !$mayRepeat;
                    $left = $until - microtime(true);
                    // The last attempt is at the end of the time, wherever the jitter falls.
                    $wait = $lost->retryAfter ?? min($pause * mt_rand(50, 100) / 100, $left);
                    if ($this->isClosed || $isHandled || $left <= 0.0 || $wait > $left) {
                        throw $lost;
                    }
                    usleep((int) ($wait * 1e6));
                }
            }
        }

        /** Connects and waits for `ready`. No effect on a connection that is open. */
        private function connect(): void
        {
            if ($this->stream !== null) {
                return;
            }
            $token = $this->options['token'] ?? '';
            $token = $token instanceof Closure ? (string) $token() : $token;
            if (preg_match('/\s/', $token)) {
                throw new InvalidArgumentException('a token has no space and no line end');
            }
            $headers = ['Authorization: Bearer ' => $token, 'Ident: ' => $this->options['ident'] ?? ''];
            $beats = (strpos($this->resource, '?') === false ? '?' : '&') . "heartbeat={$this->heartbeat}";
            $opening = "php process\nGET {$this->resource}" . ($this->heartbeat > 0 ? $beats : '') . " HTTP/1.1\n";
            foreach (array_filter($headers, 'strlen') as $name => $value) {
                $opening .= "$name$value\n";
            }
            [$this->unread, $this->heardAt] = ['', null];
            $this->stream = self::openStream($this->address, $this->timeout, $this->options['context'] ?? stream_context_create());
            $until = microtime(true) + $this->timeout;
            $this->write("$opening\n", $until);
            $this->uuid = text($this->await('ready', $until)['uuid'] ?? '');
        }

        /** Notices a connection that ended while the script worked, before a message is written to it. */
        private function notice(): void
        {
            while (($packet = $this->read(0.0)) !== null) {
                $this->keep($packet);
            }
        }

        /**
         * @param resource $context
         * @return resource
         */
        private static function openStream(string $address, float $timeout, $context)
        {
            $url = strpos($address, '://') === false ? "tcp://$address" : $address;
            $stream = @stream_socket_client($url, $number, $text, $timeout, STREAM_CLIENT_CONNECT, $context);
            if ($stream === false) {
                throw new ConnectionException("no connection to $url: " . ($text ?: error_get_last()['message'] ?? "error $number"));
            }
            stream_set_blocking($stream, false);
            return $stream;
        }

        /**
         * Reads until a packet with this opcode arrives; keeps the others for `receive`.
         *
         * @return Packet
         */
        private function await(string $opcode, float $until): array
        {
            $this->isAsking = true;
            while (($packet = $this->read($until)) !== null) {
                if (($packet['opcode'] ?? null) === $opcode) {
                    $this->isAsking = false;
                    return $packet;
                }
                $this->keep($packet);
            }
            // A late answer would be mistaken for that of the next message.
            $this->drop();
            throw new TimeoutException("no `$opcode` from the host within {$this->timeout} s");
        }

        /** @param Packet $packet */
        private function keep(array $packet): void
        {
            $this->received[] = $packet;
            if (count($this->received) > self::KEPT_PACKETS) {
                array_shift($this->received);
            }
        }

        /**
         * Returns the next packet but heartbeats, or null if none arrives in time.
         *
         * @return Packet|null
         */
        private function read(float $until): ?array
        {
            do {
                $line = $this->readLine($until);
                $packet = $line === null ? null : $this->packet($line);
                $isHeartbeat = $this->heartbeat > 0 && ($packet['opcode'] ?? null) === 'heartbeat';
                if ($isHeartbeat) {
                    $this->heardAt = microtime(true);
                }
            } while ($isHeartbeat);
            return $packet;
        }

        private function readLine(float $until): ?string
        {
            while (($end = strpos($this->unread, "\n")) === false) {
                $stream = $this->open();
                $bytes = fread($stream, self::READ_BYTES);
                if ($bytes === false || ($bytes === '' && feof($stream))) {
                    throw $this->broken('the host closed the connection');
                }
                $this->unread .= $bytes;
                if ($bytes !== '') {
                    $this->heardAt = $this->heardAt === null ? null : microtime(true);
                } elseif (!$this->isReady([$stream], [], min($until, $this->silentUntil()))) {
                    if (microtime(true) >= $this->silentUntil()) {
                        throw $this->broken('no sign of life from the host within ' . 2 * $this->heartbeat . ' s');
                    }
                    return null;
                }
            }
            $line = substr($this->unread, 0, $end);
            $this->unread = substr($this->unread, $end + 1);
            return $line;
        }

        /** Returns how long the host may be silent. */
        private function silentUntil(): float
        {
            return $this->heardAt === null ? INF : $this->heardAt + 2 * $this->heartbeat;
        }

        /** @return Packet */
        private function packet(string $line): array
        {
            $packet = decode($line);
            if ($packet === null) {
                throw $this->refusedByHttp($line);
            }
            if (($packet['opcode'] ?? null) === 'close') {
                $this->drop();
                $retryAfter = $packet['retry_after'] ?? null;
                throw $this->closed(text($packet['error'] ?? 'no reason given'), is_int($retryAfter) ? $retryAfter : null);
            }
            return $packet;
        }

        /** A `close` refuses the message, or the opening, that it answers, unless another try may succeed. */
        private function closed(string $error, ?int $retryAfter): Exception
        {
            $isRefusal = $this->isAsking && $retryAfter === null && $error !== self::STOPS;
            $this->isAsking = false;
            $text = "the host closes the connection: $error";
            return $isRefusal ? new RefusedException($text) : new ConnectionException($text, $retryAfter);
        }

        /** Handles an HTTP response to the opening; its last line is the reason. */
        private function refusedByHttp(string $statusLine): Exception
        {
            $stream = $this->open();
            stream_set_blocking($stream, true);
            stream_set_timeout($stream, 1);
            $answer = trim($this->unread . stream_get_contents($stream, self::READ_BYTES));
            $this->drop();
            $lines = explode("\n", $answer);
            $text = 'the host answers ' . trim($statusLine) . ': ' . substr(trim((string) end($lines)), 0, 500);
            $retryAfter = preg_match('/^Retry-After: *(\d+)/mi', $answer, $found) ? (int) $found[1] : null;
            return is_passing((int) (explode(' ', $statusLine)[1] ?? 0)) ? new ConnectionException($text, $retryAfter) : new RefusedException($text);
        }

        private function write(string $bytes, float $until): void
        {
            for ($sent = 0; $sent < strlen($bytes); $sent += $written) {
                $stream = $this->open();
                $written = @fwrite($stream, substr($bytes, $sent, self::READ_BYTES));
                if ($written === false) {
                    $this->explainBroken();
                }
                $this->sent += $written;
                if ($written === 0 && !$this->isReady([], [$stream], $until)) {
                    $this->drop();
                    throw new TimeoutException("the host took no message within {$this->timeout} s");
                }
            }
        }

        /**
         * After a failed write, reads the `close` packet with the reason, if there is one.
         *
         * @return never
         */
        private function explainBroken(): void
        {
            $this->isAsking = true;
            $this->notice();
            throw $this->broken('the connection broke while sending');
        }

        private function broken(string $why): ConnectionException
        {
            $this->isAsking = false;
            $this->drop();
            return new ConnectionException($why);
        }

        /** @return resource */
        private function open()
        {
            if ($this->stream === null) {
                throw new ConnectionException('the connection is closed');
            }
            return $this->stream;
        }

        /**
         * @param list<resource> $readable
         * @param list<resource> $writable
         */
        private function isReady(array $readable, array $writable, float $until): bool
        {
            $microseconds = (int) max(0, ($until - microtime(true)) * 1e6);
            $none = [];
            // A signal interrupts the wait with false; then the caller tries again.
            $ready = @stream_select($readable, $writable, $none, intdiv($microseconds, 1000000), $microseconds % 1000000);
            return $ready === false ? microtime(true) < $until : $ready > 0;
        }
    }

    /**
     * Returns a packet, or null if the text is not a JSON object.
     *
     * @internal
     * @return array<string, mixed>|null
     */
    function decode(string $json): ?array
    {
        $packet = json_decode($json, true);
        if (!is_array($packet)) {
            return null;
        }
        /** @var array<string, mixed> $packet */
        return $packet;
    }

    /**
     * @internal
     * @param mixed $value
     */
    function text($value): string
    {
        return is_scalar($value) ? (string) $value : '';
    }

    /** Returns whether the same request may succeed later: 503 Service Unavailable, 408, 429. */
    function is_passing(int $status): bool
    {
        return in_array($status, [408, 429, 503], true);
    }
}

namespace {

    /**
     * Sends one packet by HTTP POST.
     *
     * @param string $url `http://host:port/resource`
     * @param array<string, mixed> $packet
     * @param float $timeout seconds
     * @param string|null $token sent as `Authorization: Bearer TOKEN`
     * @return array<string, mixed> the acknowledgement, with `fyi` `delivered` or `gone` for feedback
     * @throws Plugsocket\ConnectionException no answer, or the host or application is not available now
     * @throws Plugsocket\RefusedException the host refused
     * @throws JsonException the packet cannot be encoded
     */
    function plugsocket_post(string $url, array $packet, float $timeout = 10.0, ?string $token = null): array
    {
        if (preg_match('/\s/', $token ?? '')) {
            throw new InvalidArgumentException('a token has no space and no line end');
        }
        $content = json_encode((object) $packet, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
        $context = stream_context_create(['http' => [
            'method' => 'POST',
            'header' => ['Content-Type: application/json', ...($token === null ? [] : ["Authorization: Bearer $token"])],
            'content' => $content,
            'timeout' => $timeout,
            'ignore_errors' => true,
            'follow_location' => 0,
        ]]);
        $stream = @fopen($url, 'r', false, $context);
        $body = $stream === false ? false : stream_get_contents($stream);
        if ($stream === false || $body === false) {
            throw new Plugsocket\ConnectionException("no answer from $url: " . (error_get_last()['message'] ?? 'no reason given'));
        }
        $meta = stream_get_meta_data($stream);
        if ($meta['timed_out']) {
            throw new Plugsocket\TimeoutException("no complete answer from $url within $timeout s");
        }
        $head = array_filter((array) ($meta['wrapper_data'] ?? []), 'is_string');
        $status = (int) (explode(' ', $head[0] ?? '')[1] ?? 0);
        if ($status < 200 || $status >= 300) {
            $text = "$url answered $status: " . trim(substr($body, 0, 500));
            $retryAfter = array_values(preg_filter('/^Retry-After: *(\d+).*/i', '$1', $head));
            throw Plugsocket\is_passing($status)
                ? new Plugsocket\ConnectionException($text, isset($retryAfter[0]) ? (int) $retryAfter[0] : null)
                : new Plugsocket\RefusedException($text);
        }
        // The last line is the acknowledgement; packets from the application precede it.
        $lines = explode("\n", trim($body));
        return Plugsocket\decode((string) end($lines)) ?? ['opcode' => 'next', 'fyi' => ''];
    }
}
