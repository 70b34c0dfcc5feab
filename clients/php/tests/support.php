<?php
/**
 * What the tests of the PHP client share: starting a mock host, assertions, and running tests.
 */

declare(strict_types=1);

require_once __DIR__ . '/../plugsocket.php';

use Plugsocket\ConnectionException;

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
    return start_logging_host($listen, '')[0];
}

/**
 * Starts a mock host that prints each packet that it receives.
 *
 * @return array{string, resource} its address, and the pipe with one packet a line
 */
function start_logging_host(string $listen, string $log = 'log'): array
{
    static $hosts = [];
    $process = proc_open([PHP_BINARY, __DIR__ . '/mock_host.php', $listen, $log], [1 => ['pipe', 'w']], $pipes);
    $hosts[] = [$process, $pipes];
    register_shutdown_function(static function () use ($process): void {
        proc_terminate($process);
    });
    return [trim((string) fgets($pipes[1])), $pipes[1]];
}

/**
 * Returns the next packet that a logging host received; waits for it.
 *
 * @param resource $log
 */
function arrived($log): array
{
    [$readable, $none] = [[$log], []];
    same(1, stream_select($readable, $none, $none, 10));
    return json_decode((string) fgets($log), true);
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

/** Expects a ConnectionException and returns its `retryAfter`. */
function retry_after(callable $call): ?int
{
    try {
        $call();
    } catch (Throwable $thrown) {
        same(ConnectionException::class, get_class($thrown));
        return $thrown->retryAfter;
    }
    throw new Exception('nothing was thrown');
}

/**
 * Runs tests, prints their names, and exits.
 *
 * @param array<string, callable> $tests
 */
function run_tests(array $tests): void
{
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
}
