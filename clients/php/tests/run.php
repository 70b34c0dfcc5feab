<?php
/**
 * Tests of the PHP client, against mock_host.php.
 *
 *     php clients/php/tests/run.php
 */

declare(strict_types=1);

require __DIR__ . '/support.php';

use Plugsocket\Backend;
use Plugsocket\ConnectionException;
use Plugsocket\RefusedException;
use Plugsocket\TimeoutException;

$address = start_host('tcp://127.0.0.1:0');
$socket = sys_get_temp_dir() . '/plugsocket-test-' . getmypid() . '.sock';
start_host("unix://$socket");
register_shutdown_function('unlink', $socket);
$next = '{"opcode":"next","fyi":"late"}' . "\n";
$close = static function (string $error, ?int $seconds = null): string {
    $packet = ['opcode' => 'close', 'error' => $error] + ($seconds === null ? [] : ['retry_after' => $seconds]);
    return json_encode($packet) . "\n";
};

$tests = [
    'the opening contains resource and ident' => static function () use ($address): void {
        $backend = new Backend($address, '/php', ['ident' => 'printer']);
        same('U', $backend->uuid());
        $backend->send(['opcode' => 'opening']);
        same(['php process', 'GET /php HTTP/1.1', 'Ident: printer'], $backend->receive()['lines']);
        $backend->close();
        $backend = new Backend("tcp://$address");
        $backend->send(['opcode' => 'opening']);
        same(['php process', 'GET /php HTTP/1.1'], $backend->receive()['lines']);
    },
    'feedback returns whether it was delivered' => static function () use ($address): void {
        $backend = new Backend($address);
        same(true, $backend->feedback('here', ['percent' => 50]));
        same(['opcode' => 'feedback', 'uuid' => 'here', 'message' => ['percent' => 50], 'fromUUID' => 'U'], $backend->receive()['packet']);
        same(false, $backend->feedback('away', '50 %'));
        same(true, $backend->feedbackIdent('printer', '50 %'));
        same(false, $backend->feedbackIdent('nobody', '50 %'));
        $backend->broadcast('to all');
    },
    'progress returns whether to abort' => static function () use ($address): void {
        $backend = new Backend($address, '/jobs');
        same(false, $backend->progress('J', 'half way', 50.0));
        same(false, $backend->progress('J', 'nobody knows how far'));
        same(true, $backend->progress('J', 'abort now', 60.0, 'here'));
        $backend->finish('J', 'aborted');
        $backend->close();
        $backend = new Backend($address, '/php');
        throws(RefusedException::class, 'is it the resource of the jobs?', static fn () => $backend->progress('J', 'x'));
    },
    'line ends and special characters in a message arrive unchanged' => static function () use ($address): void {
        $backend = new Backend($address);
        $message = "two\nlines, \r\n Grüße, 😀, / and \"quotes\"";
        $backend->send(['opcode' => 'echo', 'message' => $message]);
        same($message, $backend->receive()['message']);
        same(null, $backend->receive());
    },
    'a long message arrives completely' => static function () use ($address): void {
        $backend = new Backend($address);
        $message = str_repeat('0123456789', 300000);
        $backend->send(['opcode' => 'echo', 'message' => $message]);
        same(true, $message === $backend->receive()['message']);
    },
    'several packets in one read, and one packet in several reads' => static function () use ($address, $next): void {
        $backend = new Backend($address);
        $writes = ["{\"opcode\":\"a\"}\n{\"opcode\":\"b\"}\n{\"opc", 'ode":"c"', "}\n" . substr($next, 0, 9), substr($next, 9) . '{"opcode":"d"}', "\n"];
        same(['opcode' => 'next', 'fyi' => 'late'], $backend->send(['opcode' => 'script', 'writes' => $writes]));
        foreach (['a', 'b', 'c', 'd'] as $opcode) {
            same(['opcode' => $opcode], $backend->receive(1.0));
        }
        same(null, $backend->receive());
    },
    'an unmapped resource is refused with the reason' => static function () use ($address): void {
        throws(RefusedException::class, 'no application is mapped to /nowhere', static fn () => new Backend($address, '/nowhere'));
    },
    'an HTTP response to the opening is reported with the reason' => static function () use ($address): void {
        throws(RefusedException::class, '403 Forbidden: this address is not allowed', static fn () => new Backend($address, '/forbidden'));
    },
    'a close packet that answers a message refuses it, and later calls report a closed connection' => static function () use ($address): void {
        $backend = new Backend($address);
        $writes = ["{\"opcode\":\"close\",\"error\":\"a message must be an object\"}\n"];
        $packet = ['opcode' => 'script', 'writes' => $writes, 'then' => 'close'];
        throws(RefusedException::class, 'a message must be an object', static fn () => $backend->send($packet));
        throws(ConnectionException::class, 'the connection is closed', static fn () => $backend->broadcast('x'));
    },
    'a host that stops, or asks to come again, does not refuse' => static function () use ($address, $next, $close): void {
        foreach ([[$close('server shutting down'), null], [$close('server shutting down', 7), 7], [$close('not available now', 5), 5]] as [$line, $seconds]) {
            $backend = new Backend($address);
            same($seconds, retry_after(static fn () => $backend->send(['opcode' => 'script', 'writes' => [$line], 'then' => 'close'])));
            // Between two messages it refuses nothing, either.
            foreach ([$line, $close('no message for too long')] as $number => $between) {
                $backend = new Backend($address);
                $backend->send(['opcode' => 'script', 'writes' => [$next . $between], 'then' => 'close']);
                same($number === 0 ? $seconds : null, retry_after(static fn () => $backend->broadcast('x')));
                $backend = new Backend($address);
                $backend->send(['opcode' => 'script', 'writes' => [$next, $between], 'then' => 'close']);
                same($number === 0 ? $seconds : null, retry_after(static fn () => $backend->receive(5.0)));
            }
        }
        same(9, retry_after(static fn () => new Backend($address, '/later')));
        same(3, retry_after(static fn () => new Backend($address, '/busy')));
        same(3, retry_after(static fn () => plugsocket_post("http://$address/busy", [])));
    },
    'with reconnect, a lost connection is opened again' => static function () use ($address, $next, $close): void {
        $backend = new Backend($address, '/jobs', ['reconnect' => 10]);
        foreach ([$close('server shutting down', 0), $close('server shutting down'), ''] as $line) {
            $backend->send(['opcode' => 'script', 'writes' => [$next . $line], 'then' => 'close']);
            // Waits for the end, and for nothing over the new connection.
            same(null, $backend->receive(0.1));
            $backend->send(['opcode' => 'script', 'writes' => [$next . $close('server shutting down')], 'then' => 'close']);
            same(true, $backend->feedback('here', 'after the restart'));
            same('after the restart', $backend->receive()['packet']['message']);
        }
        // It may have been handled: it is not sent again, but the next message goes over a new connection.
        $packet = ['opcode' => 'script', 'writes' => [$close('server shutting down', 0)], 'then' => 'close'];
        same(0, retry_after(static fn () => $backend->send($packet)));
        same(true, $backend->feedback('here', 'x'));
        same(false, $backend->progress('J', 'lost once', 50.0));
        same(false, $backend->progress('J', 'lost again', 60.0));
        $backend->close();
        throws(ConnectionException::class, 'the connection is closed', static fn () => $backend->broadcast('x'));
    },
    'reconnect ends at its time, and a refusal ends it at once' => static function () use ($address): void {
        $began = microtime(true);
        throws(ConnectionException::class, 'no connection to', static fn () => new Backend('127.0.0.1:1', '/php', ['reconnect' => 0.5]));
        same(true, microtime(true) - $began >= 0.2 && microtime(true) - $began < 2.0);
        throws(ConnectionException::class, 'come later', static fn () => new Backend($address, '/later', ['reconnect' => 5]));
        throws(RefusedException::class, 'no application', static fn () => new Backend($address, '/nowhere', ['reconnect' => 60]));
        same(true, microtime(true) - $began < 4.0);
    },
    'with heartbeat, a silent host is given up while the script listens' => static function () use ($address, $next): void {
        $backend = new Backend($address, '/php?room=7', ['heartbeat' => 1]);
        $backend->send(['opcode' => 'opening']);
        same('GET /php?room=7&heartbeat=1 HTTP/1.1', $backend->receive()['lines'][1]);
        $began = microtime(true);
        throws(ConnectionException::class, 'no sign of life from the host within 2 s', static fn () => $backend->receive(10.0));
        same(true, microtime(true) - $began < 5.0);
        $backend = new Backend($address, '/php', ['heartbeat' => 1, 'reconnect' => 10]);
        same(null, $backend->receive(0.0));
        same(true, $backend->feedback('here', 'x'));
        $backend->close();
        foreach (['/php?heartbeat=1' => 1, '/php' => 601] as $resource => $seconds) {
            throws(InvalidArgumentException::class, 'heartbeat is an option', static fn () => new Backend($address, $resource, ['heartbeat' => $seconds]));
        }
    },
    'a token is sent, and a closure is asked for each connection' => static function () use ($address, $next, $close): void {
        $count = 0;
        $token = static function () use (&$count): string {
            return 't' . ++$count;
        };
        $backend = new Backend($address, '/php', ['token' => $token, 'ident' => 'printer', 'reconnect' => 10]);
        $backend->send(['opcode' => 'script', 'writes' => [$next . $close('token expired')], 'then' => 'close']);
        $backend->send(['opcode' => 'opening']);
        same(['php process', 'GET /php HTTP/1.1', 'Authorization: Bearer t2', 'Ident: printer'], $backend->receive()['lines']);
        $backend->close();
        $answer = plugsocket_post("http://$address/headers", [], 10.0, 'abc');
        same('Bearer abc', $answer['fyi']);
        throws(InvalidArgumentException::class, 'a token has no space', static fn () => new Backend($address, '/php', ['token' => "a\nb"]));
        throws(InvalidArgumentException::class, 'a token has no space', static fn () => plugsocket_post("http://$address/php", [], 10.0, 'a b'));
    },
    'a connection that ends without a close packet' => static function () use ($address): void {
        $backend = new Backend($address);
        $packet = ['opcode' => 'script', 'writes' => ['{"half'], 'then' => 'close'];
        throws(ConnectionException::class, 'the host closed the connection', static fn () => $backend->send($packet));
    },
    'ready and next time out' => static function () use ($address): void {
        throws(TimeoutException::class, 'no `ready`', static fn () => new Backend($address, '/silent', ['timeout' => 0.1]));
        $backend = new Backend($address, '/php', ['timeout' => 1.5]);
        $began = microtime(true);
        throws(TimeoutException::class, 'no `next`', static fn () => $backend->send(['opcode' => 'script', 'writes' => []]));
        same(true, microtime(true) - $began < 2.0);
        throws(ConnectionException::class, 'the connection is closed', static fn () => $backend->broadcast('x'));
    },
    'a write to a host that does not read times out' => static function (): void {
        // A separate mock host, because this one does not answer afterwards.
        $backend = new Backend(start_host('tcp://127.0.0.1:0'), '/full', ['timeout' => 0.3]);
        throws(TimeoutException::class, 'took no message', static fn () => $backend->broadcast(str_repeat('x', 20000000)));
    },
    'a refused connection' => static function (): void {
        throws(ConnectionException::class, 'no connection to tcp://127.0.0.1:1', static fn () => new Backend('127.0.0.1:1'));
        throws(ConnectionException::class, 'no answer from', static fn () => plugsocket_post('http://127.0.0.1:1/php', []));
    },
    'invalid arguments throw immediately' => static function () use ($address): void {
        throws(InvalidArgumentException::class, 'no option idnet', static fn () => new Backend($address, '/php', ['idnet' => 'x']));
        throws(InvalidArgumentException::class, 'an ident has no line end', static fn () => new Backend($address, '/php', ['ident' => "a\nb"]));
    },
    'a unix socket' => static function () use ($socket): void {
        $backend = new Backend("unix://$socket");
        same(true, $backend->feedback('here', 'x'));
    },
    'HTTP POST' => static function () use ($address): void {
        same(['opcode' => 'next', 'fyi' => 'delivered'], plugsocket_post("http://$address/php", ['opcode' => 'feedback', 'uuid' => 'here']));
        throws(RefusedException::class, '404: no application is mapped to /nowhere', static fn () => plugsocket_post("http://$address/nowhere", []));
    },
];

run_tests($tests);
