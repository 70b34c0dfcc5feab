<?php
/**
 * Tests of the Laravel broadcaster, with Laravel's container and events, against mock_host.php.
 *
 *     php clients/php/tests/laravel.php
 */

declare(strict_types=1);

use App\ExportFinished;
use App\OrderShipped;
use Illuminate\Broadcasting\BroadcastException;
use Illuminate\Broadcasting\BroadcastManager;
use Illuminate\Broadcasting\BroadcastServiceProvider;
use Illuminate\Broadcasting\Channel;
use Illuminate\Broadcasting\PresenceChannel;
use Illuminate\Broadcasting\PrivateChannel;
use Illuminate\Bus\BusServiceProvider;
use Illuminate\Config\Repository;
use Illuminate\Container\Container;
use Illuminate\Contracts\Broadcasting\Broadcaster;
use Illuminate\Events\EventServiceProvider;
use Illuminate\Http\Request;
use Plugsocket\Laravel\BrowserChannel;
use Plugsocket\Laravel\PlugsocketBroadcaster;
use Plugsocket\Laravel\PlugsocketServiceProvider;
use Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException;

$example = __DIR__ . '/../examples/laravel';
require __DIR__ . '/packages.php';
load_packages($example, [
    'Illuminate/Broadcasting/autoload.php',
    'Illuminate/Config/autoload.php',
    'Illuminate/Container/autoload.php',
    'Illuminate/Events/autoload.php',
    'Illuminate/Http/autoload.php',
    'Dotenv/autoload.php',
], ['Plugsocket\\Laravel\\' => __DIR__ . '/../src/Laravel', 'App\\' => "$example/app"]);
require __DIR__ . '/support.php';
// Old releases of Laravel use what a newer PHP deprecates.
error_reporting(E_ALL & ~E_DEPRECATED);

/** Boots a container with the example's configuration, as Laravel does. */
function boot(string $address, array $connection = []): Container
{
    putenv("PLUGSOCKET_ADDRESS=$address");
    $app = new Container();
    Container::setInstance($app);
    $config = ['broadcasting' => require __DIR__ . '/../examples/laravel/config/broadcasting.php'];
    $config['broadcasting']['connections']['plugsocket'] = $connection + $config['broadcasting']['connections']['plugsocket'];
    $app->instance('config', new Repository($config));
    foreach ([EventServiceProvider::class, BusServiceProvider::class, BroadcastServiceProvider::class, PlugsocketServiceProvider::class] as $provider) {
        (new $provider($app))->register();
    }
    return $app;
}

/** Does what the helper `broadcast()` of Laravel does. */
function broadcast(Container $app, object $event): void
{
    $app->make(BroadcastManager::class)->event($event);
}

function driver(Container $app): Broadcaster
{
    return $app->make(BroadcastManager::class)->connection();
}

/** A request to join a channel; without a user, of a guest. */
function request(?string $channel, ?string $user = 'ann'): Request
{
    $request = Request::create('/broadcasting/auth', 'POST', ['channel_name' => $channel]);
    $request->setUserResolver(static fn () => $user === null ? null : (object) ['name' => $user]);
    return $request;
}

$tests = [
    'the manager resolves the driver of the service provider' => static function (): void {
        // Nothing listens there: the driver connects with its first event.
        same(PlugsocketBroadcaster::class, get_class(driver(boot('127.0.0.1:1'))));
    },
    'an event on a public channel is broadcast' => static function (): void {
        [$address, $log] = start_logging_host('tcp://127.0.0.1:0');
        broadcast(boot($address), new OrderShipped(7));
        same(['opcode' => 'broadcast', 'channel' => 'orders', 'event' => OrderShipped::class, 'message' => ['order' => 7]], arrived($log));
    },
    'toOthers names the browser that is left out, without its secret' => static function (): void {
        [$address, $log] = start_logging_host('tcp://127.0.0.1:0');
        $app = boot($address);
        $app->instance('request', Request::create('/orders', 'POST', [], [], [], ['HTTP_X_SOCKET_ID' => 'first.secret']));
        $app->alias(BroadcastManager::class, 'Illuminate\Contracts\Broadcasting\Factory');
        Illuminate\Support\Facades\Facade::setFacadeApplication($app);
        Illuminate\Support\Facades\Facade::clearResolvedInstances();
        $app->make(BroadcastManager::class)->event(new OrderShipped(8))->toOthers();
        same(['opcode' => 'broadcast', 'channel' => 'orders', 'except' => 'first', 'event' => OrderShipped::class, 'message' => ['order' => 8]], arrived($log));
    },
    'an event on the channel of a browser is feedback, also if the browser is gone' => static function (): void {
        [$address, $log] = start_logging_host('tcp://127.0.0.1:0');
        $app = boot($address);
        foreach (['here', 'away'] as $uuid) {
            broadcast($app, new ExportFinished($uuid, '/exports/7'));
            same(['opcode' => 'feedback', 'uuid' => $uuid, 'event' => 'export.finished', 'message' => ['url' => '/exports/7']], arrived($log));
        }
    },
    'several channels in one event, with and without a payload, over one connection' => static function (): void {
        [$address, $log] = start_logging_host('tcp://127.0.0.1:0');
        $broadcaster = driver(boot($address));
        $broadcaster->broadcast([new Channel('a'), 'b', new BrowserChannel('here')], 'e', ['n' => 1]);
        $broadcaster->broadcast([new BrowserChannel('sender'), 'c'], 'f', ['socket' => 'sender']);
        $arrived = [arrived($log), arrived($log), arrived($log), arrived($log)];
        same(['a', 'b', null, 'c'], array_map(static fn (array $packet) => $packet['channel'] ?? null, $arrived));
        same(['opcode' => 'broadcast', 'channel' => 'c', 'except' => 'sender', 'event' => 'f', 'message' => []], $arrived[3]);
    },
    'private and presence channels are refused, before anything is sent' => static function (): void {
        $broadcaster = driver(boot('127.0.0.1:1'));
        foreach ([new PrivateChannel('orders.7'), new PresenceChannel('room')] as $channel) {
            throws(BroadcastException::class, "every browser would receive the events of $channel", static fn () => $broadcaster->broadcast(['a', $channel], 'e'));
        }
    },
    'what is not broadcast is a BroadcastException' => static function (): void {
        throws(BroadcastException::class, 'no connection to', static fn () => broadcast(boot('127.0.0.1:1', ['options' => []]), new OrderShipped(7)));
        $address = start_host('tcp://127.0.0.1:0');
        throws(BroadcastException::class, 'no application is mapped to /nowhere', static fn () => broadcast(boot($address, ['resource' => '/nowhere']), new OrderShipped(7)));
        throws(BroadcastException::class, 'not broadcast: malformed uuid', static fn () => broadcast(boot($address), new ExportFinished('malformed', '/')));
        throws(InvalidArgumentException::class, 'a plugsocket connection has', static fn () => driver(boot($address, ['options' => 'x'])));
    },
    'the callbacks of channels decide who has access' => static function (): void {
        $broadcaster = driver(boot('127.0.0.1:1'));
        $broadcaster->channel('orders.{id}', static fn (object $user, string $id): bool => $user->name === 'ann' && $id === '7');
        same('true', $broadcaster->auth(request('private-orders.7')));
        foreach ([request('private-orders.8'), request('private-orders.7', null), request('private-orders.7', 'bob'), request(''), request(null)] as $denied) {
            throws(AccessDeniedHttpException::class, '', static fn () => $broadcaster->auth($denied));
        }
    },
];

run_tests($tests);
