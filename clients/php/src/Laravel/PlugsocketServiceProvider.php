<?php

declare(strict_types=1);

namespace Plugsocket\Laravel;

use Illuminate\Broadcasting\BroadcastManager;
use Illuminate\Contracts\Container\Container;
use Illuminate\Support\ServiceProvider;

/** Registers the broadcast driver `plugsocket`. Laravel discovers this provider itself. */
final class PlugsocketServiceProvider extends ServiceProvider
{
    public function register(): void
    {
        // Not resolved here: a request that broadcasts nothing needs no manager.
        $this->callAfterResolving(BroadcastManager::class, static function (BroadcastManager $manager): void {
            // Not static: the manager may bind it to itself.
            $manager->extend('plugsocket', function (Container $app, array $config): PlugsocketBroadcaster {
                /** @var array<string, mixed> $config */
                return PlugsocketBroadcaster::fromConfig($config);
            });
        });
    }
}
