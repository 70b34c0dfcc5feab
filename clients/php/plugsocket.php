<?php
/**
 * PHP client of plugsocket, for scripts on the server: one file, no dependencies, PHP 7.4 or newer.
 *
 * A script posts a single message, or keeps a connection for many:
 *
 *     require 'plugsocket.php';
 *     plugsocket_post('http://127.0.0.1:8095/php', ['opcode' => 'feedback', 'uuid' => $uuid, 'message' => '50 %']);
 *
 *     $backend = new Plugsocket\Backend('127.0.0.1:8095');
 *     $isThere = $backend->feedback($uuid, '50 %');
 *
 * The host accepts both only from addresses in its `allowed_ips`.
 */

declare(strict_types=1);

namespace Plugsocket {

    use InvalidArgumentException;
    use RuntimeException;

    /** Base class of all exceptions of this client. */
    class Exception extends RuntimeException
    {
    }

    /** No connection, or it broke. A message that was being sent may have been handled. */
    class ConnectionException extends Exception
    {
    }

    /** No answer in time. The message may have been handled; the connection is closed. */
    class TimeoutException extends ConnectionException
    {
    }

    /** The host refused: unknown resource, address not allowed, message too long. */
    class RefusedException extends Exception
    {
    }

    /**
     * Connection to one resource, in the line protocol, over plain TCP, TLS or a Unix socket.
     *
     * Methods that send return after the host has acknowledged the message. There is no reconnect:
     * after a ConnectionException, create a new object.
     */
    final class Backend
    {
        private const READ_BYTES = 65536;
        /** Maximum number of packets kept for `receive`; the oldest are dropped first. */
        private const KEPT_PACKETS = 1000;

        /** @var resource|null */
        private $stream;
        /** Bytes read after the last complete line. */
        private string $unread = '';
        /** @var list<array<string, mixed>> packets kept for `receive` */
        private array $received = [];
        private float $timeout;
        private string $resource;
        private string $uuid;

        /**
         * Connects and waits for `ready`.
         *
         * @param string $address `host:port`, `[v6]:port`, `tcp://…`, `tls://…` or `unix:///path`
         * @param string $resource path: `/php` for feedback and broadcast, `/jobs` for progress
         * @param array{ident?: string, timeout?: float, context?: resource} $options
         *     `ident`: name under which others reach this script by feedback;
         *     `timeout`: seconds to connect, and for the answer to each message (default 10);
         *     `context`: stream context, for TLS options
         * @throws ConnectionException no connection, or no answer in time (TimeoutException)
         * @throws RefusedException the host refused
         * @throws InvalidArgumentException unknown option or invalid value
         */
        public function __construct(string $address = '127.0.0.1:8095', string $resource = '/php', array $options = [])
        {
            $unknown = array_diff(array_keys($options), ['ident', 'timeout', 'context']);
            $ident = $options['ident'] ?? '';
            if ($unknown !== []) {
                throw new InvalidArgumentException('there is no option ' . implode(', ', $unknown));
            }
            if (preg_match('/[\r\n]/', $ident) || preg_match('/\s|^$/', $resource)) {
                throw new InvalidArgumentException('an ident has no line end, and a resource no space');
            }
            $this->timeout = (float) ($options['timeout'] ?? 10.0);
            $this->resource = $resource;
            $this->stream = self::connect($address, $this->timeout, $options['context'] ?? stream_context_create());
            $opening = "php process\nGET $resource HTTP/1.1\n" . ($ident === '' ? '' : "Ident: $ident\n") . "\n";
            $until = microtime(true) + $this->timeout;
            $this->write($opening, $until);
            $this->uuid = (string) ($this->await('ready', $until)['uuid'] ?? '');
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
            $verdict = $this->verdict(array_filter($packet, static fn ($value) => $value !== null));
            if (!in_array($verdict, ['abort', 'watched', 'unwatched'], true)) {
                throw new RefusedException("{$this->resource} did not take the report; is it the resource of the jobs?");
            }
            return $verdict === 'abort';
        }

        /** Sends the last report of a job: `done`, `failed` or `aborted`. */
        public function finish(string $job, string $state = 'done', string $text = ''): void
        {
            $this->send(['opcode' => $state, 'job' => $job, 'text' => $text]);
        }

        /**
         * Sends any packet.
         *
         * @param array<string, mixed> $packet
         * @return array<string, mixed> the acknowledgement; its `fyi` is the application's answer
         * @throws ConnectionException broken, or no answer in time (TimeoutException)
         * @throws RefusedException the host closed the connection because of it
         * @throws \JsonException the packet cannot be encoded
         */
        public function send(array $packet): array
        {
            // JSON escapes line ends, so one message is one line.
            $line = json_encode((object) $packet, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES) . "\n";
            $until = microtime(true) + $this->timeout;
            $this->write($line, $until);
            return $this->await('next', $until);
        }

        /**
         * Returns the next packet that was sent to this script (feedback, echo), in order.
         *
         * @param float $seconds how long to wait; 0: do not wait
         * @return array<string, mixed>|null null: no packet
         */
        public function receive(float $seconds = 0.0): ?array
        {
            return array_shift($this->received) ?? $this->read(microtime(true) + $seconds);
        }

        /** Closes the connection, as the destructor does. */
        public function close(): void
        {
            if ($this->stream !== null) {
                fclose($this->stream);
                $this->stream = null;
            }
        }

        /** @param array<string, mixed> $packet */
        private function verdict(array $packet): string
        {
            return (string) ($this->send($packet)['fyi'] ?? '');
        }

        /**
         * @param resource $context
         * @return resource
         */
        private static function connect(string $address, float $timeout, $context)
        {
            $url = strpos($address, '://') === false ? "tcp://$address" : $address;
            $stream = @stream_socket_client($url, $number, $text, $timeout, STREAM_CLIENT_CONNECT, $context);
            if ($stream === false) {
                throw new ConnectionException("no connection to $url: " . ($text ?: error_get_last()['message'] ?? "error $number"));
            }
            stream_set_blocking($stream, false);
            return $stream;
        }

        /** Reads until a packet with this opcode arrives; keeps the others for `receive`. */
        private function await(string $opcode, float $until): array
        {
            while (($packet = $this->read($until)) !== null) {
                if (($packet['opcode'] ?? null) === $opcode) {
                    return $packet;
                }
                $this->received[] = $packet;
                if (count($this->received) > self::KEPT_PACKETS) {
                    array_shift($this->received);
                }
            }
            // A late answer would be mistaken for that of the next message.
            $this->close();
            throw new TimeoutException("no `$opcode` from the host within {$this->timeout} s");
        }

        /** Returns the next packet, or null if none arrives in time. */
        private function read(float $until): ?array
        {
            while (($end = strpos($this->unread, "\n")) === false) {
                $bytes = fread($this->open(), self::READ_BYTES);
                if ($bytes === false || ($bytes === '' && feof($this->stream))) {
                    throw $this->broken('the host closed the connection');
                }
                $this->unread .= $bytes;
                if ($bytes === '' && !$this->isReady([$this->stream], [], $until)) {
                    return null;
                }
            }
            $line = substr($this->unread, 0, $end);
            $this->unread = substr($this->unread, $end + 1);
            return $this->packet($line);
        }

        private function packet(string $line): array
        {
            $packet = json_decode($line, true);
            if (!is_array($packet)) {
                throw $this->refusedByHttp($line);
            }
            if (($packet['opcode'] ?? null) === 'close') {
                $this->close();
                throw new RefusedException('the host closes the connection: ' . ($packet['error'] ?? 'no reason given'));
            }
            return $packet;
        }

        /** Handles an HTTP response to the opening; its last line is the reason. */
        private function refusedByHttp(string $statusLine): RefusedException
        {
            stream_set_blocking($this->open(), true);
            stream_set_timeout($this->stream, 1);
            $lines = explode("\n", trim($this->unread . stream_get_contents($this->stream, self::READ_BYTES)));
            $this->close();
            return new RefusedException('the host answers ' . trim($statusLine) . ': ' . substr(trim((string) end($lines)), 0, 500));
        }

        private function write(string $bytes, float $until): void
        {
            for ($sent = 0; $sent < strlen($bytes); $sent += $written) {
                $written = @fwrite($this->open(), substr($bytes, $sent, self::READ_BYTES));
                if ($written === false) {
                    $this->explainBroken();
                }
                if ($written === 0 && !$this->isReady([], [$this->stream], $until)) {
                    $this->close();
                    throw new TimeoutException("the host took no message within {$this->timeout} s");
                }
            }
        }

        /** After a failed write, reads the `close` packet with the reason, if there is one. */
        private function explainBroken(): void
        {
            while ($this->read(0.0) !== null) {
                continue;
            }
            throw $this->broken('the connection broke while sending');
        }

        private function broken(string $why): ConnectionException
        {
            $this->close();
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
}

namespace {

    /**
     * Sends one packet by HTTP POST.
     *
     * @param string $url `http://host:port/resource`
     * @param array<string, mixed> $packet
     * @param float $timeout seconds
     * @return array<string, mixed> the acknowledgement, with `fyi` `delivered` or `gone` for feedback
     * @throws Plugsocket\ConnectionException no answer
     * @throws Plugsocket\RefusedException the host refused
     * @throws JsonException the packet cannot be encoded
     */
    function plugsocket_post(string $url, array $packet, float $timeout = 10.0): array
    {
        $content = json_encode((object) $packet, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
        $context = stream_context_create(['http' => [
            'method' => 'POST',
            'header' => 'Content-Type: application/json',
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
        $status = (int) (explode(' ', $meta['wrapper_data'][0] ?? '')[1] ?? 0);
        if ($status < 200 || $status >= 300) {
            throw new Plugsocket\RefusedException("$url answered $status: " . trim(substr($body, 0, 500)));
        }
        // The last line is the acknowledgement; packets from the application precede it.
        $lines = explode("\n", trim($body));
        return json_decode((string) end($lines), true) ?? ['opcode' => 'next', 'fyi' => ''];
    }
}
