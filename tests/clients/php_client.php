<?php
/**
 * The PHP client (clients/php/plugsocket.php) against a running host.
 *
 *     PLUGSOCKET_URL=http://127.0.0.1:8095 php tests/clients/php_client.php
 */

declare(strict_types=1);

require __DIR__ . '/../../clients/php/plugsocket.php';

use Plugsocket\Backend;
use Plugsocket\RefusedException;

error_reporting(E_ALL);

$url = rtrim(getenv('PLUGSOCKET_URL') ?: 'http://127.0.0.1:8095', '/');
$address = substr($url, strlen('http://'));

/** The uuid of a browser that is not connected. */
const NOBODY = '00000000-0000-4000-8000-000000000000.0000000000000000000000000000000000000000000000000000000000000000';

function same($expected, $actual): void
{
    if ($expected !== $actual) {
        throw new Exception('expected ' . var_export($expected, true) . ', got ' . var_export($actual, true));
    }
}

$tests = [
    'one message by POST' => static function () use ($url): void {
        same(['opcode' => 'next', 'fyi' => 'gone'], plugsocket_post("$url/php", ['opcode' => 'feedback', 'uuid' => NOBODY, 'message' => 'x']));
    },
    'a POST to an unknown path is refused' => static function () use ($url): void {
        try {
            plugsocket_post("$url/nowhere", ['opcode' => 'echo']);
        } catch (RefusedException $refused) {
            same(true, strpos($refused->getMessage(), '/nowhere') !== false);
            return;
        }
        throw new Exception('no exception was thrown');
    },
    'feedback by ident, received in order' => static function () use ($address): void {
        $printer = new Backend($address, '/php', ['ident' => 'php-client-printer']);
        $script = new Backend($address);
        same(false, $script->feedback(NOBODY, 'x'));
        for ($page = 1; $page <= 20; $page++) {
            same(true, $script->feedbackIdent('php-client-printer', "page $page"));
        }
        for ($page = 1; $page <= 20; $page++) {
            same("page $page", $printer->receive(5.0)['message']);
        }
        $printer->close();
        // The host notices the close shortly afterwards.
        $deadline = microtime(true) + 5.0;
        while ($script->feedbackIdent('php-client-printer', 'too late')) {
            same(true, microtime(true) < $deadline);
        }
        $script->broadcast('to all browsers');
        $script->close();
    },
    'a token lets a script in' => static function () use ($address, $url): void {
        $encode = static fn (string $bytes): string => rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
        $signed = $encode('{"alg":"HS256"}') . '.' . $encode(json_encode(['sub' => 'ann', 'exp' => time() + 60]));
        $token = $signed . '.' . $encode(hash_hmac('sha256', $signed, '0123456789abcdef0123456789abcdef', true));
        same(false, (new Backend($address, '/members', ['token' => $token]))->feedback(NOBODY, 'x'));
        same(false, (new Backend($address, '/members', ['token' => static fn () => $token, 'ident' => 'ann']))->feedback(NOBODY, 'x'));
        same('gone', plugsocket_post("$url/members", ['opcode' => 'feedback', 'uuid' => NOBODY], 10.0, $token)['fyi']);
        foreach ([
            'no token' => static fn () => new Backend($address, '/members', ['reconnect' => 60]),
            'the token cannot be read' => static fn () => new Backend($address, '/members', ['token' => 'a.b.c']),
            '401' => static fn () => plugsocket_post("$url/members", []),
        ] as $reason => $call) {
            try {
                $call();
            } catch (RefusedException $refused) {
                same(true, strpos($refused->getMessage(), (string) $reason) !== false);
                continue;
            }
            throw new Exception("not refused: $reason");
        }
    },
    'the progress of a job is accepted' => static function () use ($address): void {
        $jobs = new Backend($address, '/jobs');
        $job = bin2hex(random_bytes(8));
        same(false, $jobs->progress($job, 'half of it', 50.0));
        $jobs->finish($job, 'done', 'all of it');
        $jobs->close();
    },
    'an unknown resource is refused with a reason' => static function () use ($address): void {
        try {
            new Backend($address, '/nowhere');
        } catch (RefusedException $refused) {
            same(true, strpos($refused->getMessage(), '/nowhere') !== false);
            return;
        }
        throw new Exception('no exception was thrown');
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
