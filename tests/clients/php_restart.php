<?php
/**
 * The PHP client with `reconnect`, while the host restarts: prints `connected`, waits for a line, and
 * then sends again to the host, which is another one by then.
 *
 *     PLUGSOCKET_URL=http://127.0.0.1:8095 php tests/clients/php_restart.php
 */

declare(strict_types=1);

require __DIR__ . '/../../clients/php/plugsocket.php';

use Plugsocket\Backend;

error_reporting(E_ALL);

$address = substr(rtrim(getenv('PLUGSOCKET_URL') ?: 'http://127.0.0.1:8095', '/'), strlen('http://'));
$printer = new Backend($address, '/php', ['ident' => 'php-restart', 'reconnect' => 60]);
$script = new Backend($address, '/php', ['reconnect' => 60]);
$jobs = new Backend($address, '/jobs', ['reconnect' => 60]);
$job = bin2hex(random_bytes(8));
$jobs->progress($job, 'before', 10.0);
$before = $script->uuid();
if (!$script->feedbackIdent('php-restart', 'before') || $printer->receive(10.0)['message'] !== 'before') {
    exit("not delivered before the restart\n");
}
echo "connected\n";
fgets(STDIN);
$printer->receive(0.0);
$isDelivered = $script->feedbackIdent('php-restart', 'after');
$packet = $printer->receive(10.0);
if (!$isDelivered || $packet['message'] !== 'after' || $script->uuid() === $before || $packet['fromUUID'] !== $script->uuid()) {
    exit("not delivered after the restart\n");
}
$jobs->progress($job, 'after', 20.0);
$jobs->finish($job);
echo "all messages were delivered\n";
