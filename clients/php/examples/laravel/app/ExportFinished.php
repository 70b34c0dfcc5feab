<?php

declare(strict_types=1);

namespace App;

use Illuminate\Contracts\Broadcasting\ShouldBroadcastNow;
use Plugsocket\Laravel\BrowserChannel;

/**
 * For the browser that asked for the export. Its page receives it as
 * {"opcode":"feedback","uuid":"…","event":"export.finished","message":{"url":"…"}}
 */
final class ExportFinished implements ShouldBroadcastNow
{
    private string $uuid;
    public string $url;

    public function __construct(string $uuid, string $url)
    {
        $this->uuid = $uuid;
        $this->url = $url;
    }

    public function broadcastOn(): BrowserChannel
    {
        return new BrowserChannel($this->uuid);
    }

    public function broadcastAs(): string
    {
        return 'export.finished';
    }
}
