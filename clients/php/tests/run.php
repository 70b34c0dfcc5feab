<?php
/**
 * Tests of the PHP client, against mock_host.php.
 *
 *     php clients/php/tests/run.php
 */

declare(strict_types=1);

require __DIR__ . '/../plugsocket.php';

use Plugsocket\Backend;
use Plugsocket\ConnectionException;
use Plugsocket\RefusedException;
use Plugsocket\TimeoutException;

error_reporting(E_ALL);
set_error_handler(static function (int $level, string $message, string $file, int $line): bool {
    if (error_reporting() & $level) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
    return false;
});

/** Starts a mock host, which ends with this script, and returns its address. */
function start_host(string $listen): string
{
    static $hosts = [];
    $process = proc_open([PHP_BINARY, __DIR__ . '/mock_host.php', $listen], [1 => ['pipe', 'w']], $pipes);
    $hosts[] = [$process, $pipes];
    register_shutdown_function(static function () use ($process): void {
        proc_terminate($process);
    });
    return trim((string) fgets($pipes[1]));
}

function same($expected, $actual): void
{
    if ($expected !== $actual) {
        throw new Exception('expected ' . var_export($expected, true) . ', got ' . var_export($actual, true));
    }
}

function throws(string $class, string $part, callable $call): void
{
    try {
        $call();
    } catch (Throwable $thrown) {
        same($class, get_class($thrown));
        same(true, strpos($thrown->getMessage(), $part) !== false ?: $thrown->getMessage());
        return;
    }
    throw new Exception("expected $class, nothing was thrown");
}

$address = start_host('tcp://127.0.0.1:0');
$socket = sys_get_temp_dir() . '/plugsocket-test-' . getmypid() . '.sock';
start_host("unix://$socket");
register_shutdown_function('unlink', $socket);
$next = '{"opcode":"next","fyi":"late"}' . "\n";

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
    'a close packet is reported with its reason, and later calls report a closed connection' => static function () use ($address): void {
        $backend = new Backend($address);
        $writes = ["{\"opcode\":\"close\",\"error\":\"server shutting down\"}\n"];
        $packet = ['opcode' => 'script', 'writes' => $writes, 'then' => 'close'];
        throws(RefusedException::class, 'server shutting down', static fn () => $backend->send($packet));
        throws(ConnectionException::class, 'the connection is closed', static fn () => $backend->broadcast('x'));
    },
    'a close packet between two messages is reported by the next message' => static function () use ($address, $next): void {
        $backend = new Backend($address);
        $writes = [$next, "{\"opcode\":\"close\",\"error\":\"server shutting down\"}\n"];
        $backend->send(['opcode' => 'script', 'writes' => $writes, 'then' => 'close']);
        usleep(100000);
        throws(RefusedException::class, 'server shutting down', static fn () => $backend->broadcast('x'));
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

$failed = 0;
foreach ($tests as $name => $test) {
    try {
        $test();
        echo "ok      $name\n";
    } catch (Throwable $thrown) {
        $failed++;
        echo "FAILED  $name: {$thrown->getMessage()} ({$thrown->getFile()}:{$thrown->getLine()})\n";
    }
}
echo $failed === 0 ? count($tests) . " passed\n" : "$failed of " . count($tests) . " failed\n";
exit($failed === 0 ? 0 : 1);
