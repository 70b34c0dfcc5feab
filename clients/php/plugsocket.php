<?php
/**
 * The PHP client of plugsocket, for scripts on the server: one file, no dependency, PHP 7.4 or newer.
 *
 * A script that has one thing to say posts it; a script that reports again and again keeps a connection:
 *
 *     require 'plugsocket.php';
 *     plugsocket_post('http://127.0.0.1:8095/php', ['opcode' => 'feedback', 'uuid' => $uuid, 'message' => '50 %']);
 *
 *     $backend = new Plugsocket\Backend('127.0.0.1:8095');
 *     $isThere = $backend->feedback($uuid, '50 %');
 *
 * The host accepts either only from the addresses in its `allowed_ips`.
 */

declare(strict_types=1);

namespace Plugsocket {

    use InvalidArgumentException;
    use RuntimeException;

    /** Whatever went wrong; its subclasses say what a script can do about it. */
    class Exception extends RuntimeException
    {
    }

    /** Nobody listens there, or the connection broke. A message that was being sent may have been handled. */
    class ConnectionException extends Exception
    {
    }

    /** The host did not answer in time. A message that was being sent may have been handled. The connection is closed. */
    class TimeoutException extends ConnectionException
    {
    }

    /** The host said no, and why: no such resource, address not allowed, message too long. */
    class RefusedException extends Exception
    {
    }

    /**
     * One connection to one resource, over plain TCP (or a unix socket, or TLS), in the line protocol of the host.
     *
     * Every message is sent and then acknowledged by the host before the method returns. Nothing connects again by itself:
     * after a ConnectionException the object is of no more use.
     */
    final class Backend
    {
        private const READ_BYTES = 65536;
        /** So many packets are kept for `receive`; the oldest go first. */
        private const KEPT_PACKETS = 1000;

        /** @var resource|null */
        private $stream;
        /** What was read and holds no whole line yet. */
        private string $unread = '';
        /** @var list<array<string, mixed>> packets that came while something else was awaited */
        private array $received = [];
        private float $timeout;
        private string $resource;
        private string $uuid;

        /**
         * Connects, and waits until the host is ready for messages.
         *
         * @param string $address `host:port`, `[v6]:port`, `tcp://…`, `tls://…` or `unix:///path`
         * @param string $resource the path in plugins.toml: `/php` for feedback and broadcast, `/jobs` for progress
         * @param array{ident?: string, timeout?: float, context?: resource} $options
         *     `ident`: the name under which others reach this script by feedback;
         *     `timeout`: seconds for connecting, and for the answer to each message (default 10);
         *     `context`: a stream context, for the options of TLS
         * @throws ConnectionException nobody listens there, or no answer in time (TimeoutException)
         * @throws RefusedException the host said no
         * @throws InvalidArgumentException an unknown option, or one that cannot be
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

        /** This connection's own uuid. */
        public function uuid(): string
        {
            return $this->uuid;
        }

        /**
         * Sends to the one browser with this uuid.
         *
         * @param mixed $message anything that JSON can carry
         * @return bool whether it was delivered; false: that browser is gone, and a script may stop working for it
         */
        public function feedback(string $uuid, $message): bool
        {
            $packet = ['opcode' => 'feedback', 'uuid' => $uuid, 'message' => $message, 'fromUUID' => $this->uuid];
            return $this->verdict($packet) === 'delivered';
        }

        /**
         * Sends to the one connection, of a browser or a script, that announced this ident.
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
         * Reports how far a job is; for a connection to the resource of the jobs.
         *
         * @param float|null $percent 0 to 100; null: nobody knows
         * @param string|null $uuid a browser that is to watch the job from now on
         * @return bool whether somebody asked to abort: then stop, and say `finish($job, 'aborted', …)`
         * @throws RefusedException this resource knows no jobs, or this job not
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

        /** The last report of a job: `done`, `failed` or `aborted`. */
        public function finish(string $job, string $state = 'done', string $text = ''): void
        {
            $this->send(['opcode' => $state, 'job' => $job, 'text' => $text]);
        }

        /**
         * Sends any packet.
         *
         * @param array<string, mixed> $packet
         * @return array<string, mixed> the `next` that acknowledges it; what an application has to say is in its `fyi`
         * @throws ConnectionException broken, or no answer in time (TimeoutException)
         * @throws RefusedException the host closes the connection over it
         * @throws \JsonException the packet cannot be written as JSON
         */
        public function send(array $packet): array
        {
            // JSON writes a line end inside a text as \n, so one message is one line.
            $line = json_encode((object) $packet, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES) . "\n";
            $until = microtime(true) + $this->timeout;
            $this->write($line, $until);
            return $this->await('next', $until);
        }

        /**
         * The next packet that somebody sent to this script (feedback to its ident or uuid, an echo), in order.
         *
         * @param float $seconds how long to wait for one; 0: only what is there
         * @return array<string, mixed>|null null: none came
         */
        public function receive(float $seconds = 0.0): ?array
        {
            return array_shift($this->received) ?? $this->read(microtime(true) + $seconds);
        }

        /** Ends the connection. Also done when the object is no longer used. */
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

        /** Reads until a packet with this opcode comes; the others are kept for `receive`. */
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
            // A late answer would be taken for that of the next message.
            $this->close();
            throw new TimeoutException("no `$opcode` from the host within {$this->timeout} s");
        }

        /** The next packet, or null when there is none by then. */
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

        /** A host that does not take the opening says so in HTTP: the status line was read, the reason is in the last line. */
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

        /** A host that closes says why first; the reason is still there to be read after a write has failed. */
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
            // A signal ends the wait early, with false: then there is nothing to read, and the caller asks again.
            $ready = @stream_select($readable, $writable, $none, intdiv($microseconds, 1000000), $microseconds % 1000000);
            return $ready === false ? microtime(true) < $until : $ready > 0;
        }
    }
}

namespace {

    /**
     * Sends one packet by HTTP POST, without keeping a connection.
     *
     * @param string $url `http://host:port/resource`
     * @param array<string, mixed> $packet
     * @param float $timeout seconds
     * @return array<string, mixed> the `next` that acknowledges it; the verdict of a feedback, `delivered` or `gone`, is in its `fyi`
     * @throws Plugsocket\ConnectionException no answer
     * @throws Plugsocket\RefusedException the host said no
     * @throws JsonException the packet cannot be written as JSON
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
            throw new Plugsocket\TimeoutException("no whole answer from $url within $timeout s");
        }
        $status = (int) (explode(' ', $meta['wrapper_data'][0] ?? '')[1] ?? 0);
        if ($status < 200 || $status >= 300) {
            throw new Plugsocket\RefusedException("$url answered $status: " . trim(substr($body, 0, 500)));
        }
        // What an application sent to the poster comes first, one packet a line; the acknowledgement is the last line.
        $lines = explode("\n", trim($body));
        return json_decode((string) end($lines), true) ?? ['opcode' => 'next', 'fyi' => ''];
    }
}
