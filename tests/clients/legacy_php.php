<?php
/**
 * Scripts written for the host's predecessor in plain PHP: plain TCP without line ends, and a
 * WebSocket whose handshake and first message are read by one fread each.
 *
 *     PLUGSOCKET_URL=http://127.0.0.1:8095 php tests/clients/legacy_php.php
 */

declare(strict_types=1);

error_reporting(E_ALL);
set_error_handler(static function (int $level, string $message, string $file, int $line): bool {
    throw new ErrorException($message, 0, $level, $file, $line);
});

$parts = parse_url(getenv('PLUGSOCKET_URL') ?: 'http://127.0.0.1:8095');
$address = "tcp://{$parts['host']}:{$parts['port']}";

function same($expected, $actual): void
{
    if ($expected !== $actual) {
        throw new Exception('expected ' . var_export($expected, true) . ', got ' . var_export($actual, true));
    }
}

/** A packet for a browser that is not connected. */
const TO_NOBODY = '{"opcode":"feedback","uuid":"00000000-0000-4000-8000-000000000000.0000000000000000000000000000000000000000000000000000000000000000","message":"x"}';

/** @return resource */
function open(string $address)
{
    $stream = stream_socket_client($address, $number, $text, 5);
    stream_set_timeout($stream, 5);
    return $stream;
}

/** Reads once, like the old scripts. @param resource $stream */
function read_once($stream): string
{
    $bytes = fread($stream, 8192);
    same(false, stream_get_meta_data($stream)['timed_out']);
    return (string) $bytes;
}

/** Reads packets up to and including `next`. @param resource $stream */
function read_to_next($stream): array
{
    $packets = [];
    do {
        $line = fgets($stream);
        same(true, is_string($line));
        $packets[] = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
    } while (end($packets)['opcode'] !== 'next');
    return $packets;
}

/** Encodes a masked frame. */
function frame(string $payload, int $opcode = 1, bool $isLast = true): string
{
    $length = strlen($payload);
    $head = chr(($isLast ? 0x80 : 0) | $opcode);
    if ($length < 126) {
        $head .= chr(0x80 | $length);
    } elseif ($length < 65536) {
        $head .= chr(0x80 | 126) . pack('n', $length);
    } else {
        $head .= chr(0x80 | 127) . pack('J', $length);
    }
    $mask = random_bytes(4);
    return $head . $mask . ($payload ^ str_pad('', $length, $mask));
}

/** Reads the payload of the next text frame and skips pings. @param resource $stream */
function read_text($stream): string
{
    do {
        $head = fread($stream, 2);
        same(2, strlen($head));
        $length = ord($head[1]) & 127;
        if ($length === 126) {
            $length = unpack('n', fread($stream, 2))[1];
        }
        $payload = $length > 0 ? stream_get_contents($stream, $length) : '';
    } while ((ord($head[0]) & 15) === 9);
    return $payload;
}

/** Returns the payload of an unmasked frame. */
function unframe(string $bytes): string
{
    $length = ord($bytes[1]) & 127;
    $at = $length === 126 ? 4 : ($length === 127 ? 10 : 2);
    return substr($bytes, $at);
}

/**
 * Opens a WebSocket and checks the 101 response, which for a script must arrive alone in one read.
 * @return resource
 */
function open_websocket(string $address, string $path, string $more = '')
{
    $stream = open($address);
    $key = base64_encode(random_bytes(16));
    fwrite($stream, "GET $path HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        . "Sec-WebSocket-Key: $key\r\nSec-WebSocket-Version: 13\r\n$more\r\n");
    $answer = '';
    if (strpos($more, 'Client-Type:') === 0) {
        $answer = read_once($stream);
    } else {
        while (substr($answer, -4) !== "\r\n\r\n") {
            $answer .= fgets($stream);
        }
    }
    same('HTTP/1.1 101', substr($answer, 0, 12));
    $accept = base64_encode(sha1($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11', true));
    same(true, stripos($answer, "Sec-WebSocket-Accept: $accept\r\n") !== false);
    same("\r\n\r\n", substr($answer, -4));
    return $stream;
}

$tests = [
    'plain TCP: opening without an empty line, messages without line ends, one at a time' => static function () use ($address): void {
        $stream = open($address);
        fwrite($stream, "php process\nGET /php HTTP/1.1\n");
        $ready = json_decode(read_once($stream), true);
        same('ready', $ready['opcode']);
        for ($number = 0; $number < 50; $number++) {
            fwrite($stream, json_encode(['opcode' => 'echo', 'message' => "number $number"]));
            same([['opcode' => 'echo', 'message' => "number $number"], ['opcode' => 'next', 'fyi' => '']], read_to_next($stream));
        }
        fwrite($stream, TO_NOBODY);
        same([['opcode' => 'next', 'fyi' => 'gone']], read_to_next($stream));
        fclose($stream);
    },
    'plain TCP: opening line and request in separate writes, with CRLF' => static function () use ($address): void {
        $stream = open($address);
        fwrite($stream, "php process\r\n");
        usleep(20000);
        fwrite($stream, "GET /php HTTP/1.1\r\n");
        same('ready', json_decode(read_once($stream), true)['opcode']);
        fclose($stream);
    },
    'plain TCP: a long message in chunks that split a character' => static function () use ($address): void {
        $stream = open($address);
        fwrite($stream, "php process\nGET /php HTTP/1.1\n");
        read_once($stream);
        $text = json_encode(['opcode' => 'echo', 'message' => str_repeat('ä', 10001)], JSON_UNESCAPED_UNICODE);
        foreach (array_merge(['bufferON'], str_split($text, 4097)) as $message) {
            fwrite($stream, $message);
            same([['opcode' => 'next', 'fyi' => '']], read_to_next($stream));
        }
        fwrite($stream, 'bufferOFF');
        $packets = read_to_next($stream);
        same(str_repeat('ä', 10001), $packets[0]['message']);
        fclose($stream);
    },
    'plain TCP: an unknown path is refused with a reason' => static function () use ($address): void {
        $stream = open($address);
        fwrite($stream, "php process\nGET /nowhere HTTP/1.1\n");
        $packet = json_decode((string) fgets($stream), true);
        same('close', $packet['opcode']);
        same(true, strpos($packet['error'], '/nowhere') !== false);
        same('', stream_get_contents($stream));
    },
    'WebSocket: 101 and ready arrive in one read each, every time' => static function () use ($address): void {
        for ($round = 0; $round < 20; $round++) {
            $stream = open_websocket($address, '/php', "Client-Type: php\r\n");
            $ready = json_decode(unframe(read_once($stream)), true);
            same('ready', $ready['opcode']);
            fwrite($stream, frame(TO_NOBODY));
            same('{"opcode":"next","fyi":"gone"}', unframe(read_once($stream)));
            fclose($stream);
        }
    },
    'WebSocket: a busy script that cannot answer pings is not pinged' => static function () use ($address): void {
        $stream = open_websocket($address, '/php', "Client-Type: php\r\n");
        read_once($stream);
        // The test host pings every second.
        sleep(3);
        fwrite($stream, frame(TO_NOBODY));
        same('{"opcode":"next","fyi":"gone"}', unframe(read_once($stream)));
        fclose($stream);
    },
    'WebSocket: a script reaches a browser by uuid' => static function () use ($address): void {
        $browser = open_websocket($address, '/web');
        $uuid = json_decode(read_text($browser), true)['uuid'];
        $script = open_websocket($address, '/php', "Client-Type: php\r\nIdent: legacy\r\n");
        read_once($script);
        $packet = json_encode(['opcode' => 'feedback', 'uuid' => $uuid, 'message' => '50 %']);
        fwrite($script, frame($packet));
        same('{"opcode":"next","fyi":"delivered"}', unframe(read_once($script)));
        same($packet, read_text($browser));
        fwrite($script, frame('{"opcode":"quit"}'));
        $last = (string) stream_get_contents($script);
        same(1000, unpack('n', substr($last, -2))[1]);
    },
];

foreach ($tests as $name => $test) {
    try {
        $test();
    } catch (Throwable $error) {
        echo "FAILED $name\n$error\n";
        exit(1);
    }
    echo "ok $name\n";
}
