<?php

declare(strict_types=1);

namespace Plugsocket\Laravel;

use Closure;
use Illuminate\Broadcasting\BroadcastException;
use Illuminate\Broadcasting\Broadcasters\Broadcaster;
use Illuminate\Broadcasting\Broadcasters\UsePusherChannelConventions;
use Illuminate\Http\Request;
use InvalidArgumentException;
use Plugsocket\Backend;
use Plugsocket\Exception;
use Symfony\Component\HttpKernel\Exception\AccessDeniedHttpException;

/**
 * Sends Laravel's events through a resource of the application `feedback`.
 *
 * An event on a public channel reaches every browser, which selects by `channel`; an event on a
 * BrowserChannel reaches one. Other private and presence channels are refused, because the
 * application has no subscriptions: every browser would receive their events.
 *
 * @phpstan-import-type Packet from Backend
 * @phpstan-import-type Options from Backend
 */
final class PlugsocketBroadcaster extends Broadcaster
{
    use UsePusherChannelConventions;

    /** @var Closure(): Backend */
    private Closure $connect;
    /** Opened by the first event, and kept for the next ones of a queue worker. */
    private ?Backend $backend = null;

    /** @param Closure(): Backend $connect called once, for the first event */
    public function __construct(Closure $connect)
    {
        $this->connect = $connect;
    }

    /**
     * @param array<string, mixed> $config an entry of `connections` in config/broadcasting.php:
     *     `address`, `resource`, and `options` of the Backend
     */
    public static function fromConfig(array $config): self
    {
        $address = $config['address'] ?? '127.0.0.1:8095';
        $resource = $config['resource'] ?? '/php';
        $options = $config['options'] ?? [];
        if (!is_string($address) || !is_string($resource) || !is_array($options)) {
            throw new InvalidArgumentException('a plugsocket connection has the strings address and resource, and the array options');
        }
        /** @var Options $options */
        return new self(static fn (): Backend => new Backend($address, $resource, $options));
    }

    /**
     * Sends an event to its channels; returns after the host has acknowledged each packet. A browser
     * that is not connected misses the event, as with other drivers.
     *
     * @param array<mixed> $channels channels, or their names
     * @param string $event
     * @param array<mixed> $payload its `socket` is the uuid of a browser that is left out (`toOthers`)
     * @throws BroadcastException not sent to all channels
     */
    public function broadcast(array $channels, $event, array $payload = []): void
    {
        $socket = $payload['socket'] ?? '';
        $socket = is_string($socket) ? $socket : '';
        unset($payload['socket']);
        /** @var list<string> $names */
        $names = array_values($this->formatChannels($channels));
        foreach ($names as $name) {
            $this->refuseGuarded($name);
        }
        foreach ($names as $name) {
            $this->sendTo($name, ['event' => $event, 'message' => (object) $payload], $socket);
        }
    }

    /**
     * Answers Laravel's route `/broadcasting/auth` for the callbacks in routes/channels.php. The host
     * does not ask it; a page may, to learn whether its user has access.
     *
     * @param Request $request
     * @return mixed
     */
    public function auth($request)
    {
        $channel = $request->input('channel_name');
        $channel = is_string($channel) ? $channel : '';
        $name = $this->normalizeChannelName($channel);
        $needsUser = $this->isGuardedChannel($channel);
        if ($name === '' || ($needsUser && !$this->retrieveUser($request, $name))) {
            throw new AccessDeniedHttpException();
        }
        return $this->verifyUserCanAccessChannel($request, $name);
    }

    /**
     * @param Request $request
     * @param mixed $result what the channel's callback returned
     */
    public function validAuthenticationResponse($request, $result): string
    {
        return json_encode($result, JSON_THROW_ON_ERROR);
    }

    private function refuseGuarded(string $name): void
    {
        if ($this->isGuardedChannel($name) && self::uuidOf($name) === null) {
            throw new BroadcastException("every browser would receive the events of $name: use a BrowserChannel for one browser, or a public channel");
        }
    }

    /** Returns the uuid of a BrowserChannel, or null. */
    private static function uuidOf(string $name): ?string
    {
        $isBrowser = strpos($name, BrowserChannel::PREFIX) === 0;
        return $isBrowser ? substr($name, strlen(BrowserChannel::PREFIX)) : null;
    }

    /** @param Packet $packet */
    private function sendTo(string $name, array $packet, string $socket): void
    {
        $uuid = self::uuidOf($name);
        if ($uuid === null) {
            // Only the first part of the uuid: the whole would let every browser send to this one.
            $except = $socket === '' ? [] : ['except' => explode('.', $socket)[0]];
            $this->send(['opcode' => 'broadcast', 'channel' => $name] + $except + $packet, ['']);
        } elseif ($uuid !== $socket) {
            $this->send(['opcode' => 'feedback', 'uuid' => $uuid] + $packet, ['delivered', 'gone']);
        }
    }

    /**
     * @param Packet $packet
     * @param list<string> $expected values of `fyi` that mean that the application took the packet
     */
    private function send(array $packet, array $expected): void
    {
        try {
            $this->backend ??= ($this->connect)();
            $verdict = $this->backend->send($packet)['fyi'] ?? '';
        } catch (Exception $exception) {
            throw new BroadcastException("not broadcast: {$exception->getMessage()}", 0, $exception);
        }
        if (!in_array($verdict, $expected, true)) {
            $verdict = is_string($verdict) && $verdict !== '' ? $verdict : 'no verdict';
            throw new BroadcastException("not broadcast: $verdict; is it a resource of the application feedback?");
        }
    }
}
