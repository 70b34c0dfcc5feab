<?php

declare(strict_types=1);

namespace App;

use Illuminate\Broadcasting\Channel;
use Illuminate\Broadcasting\InteractsWithSockets;
use Illuminate\Contracts\Broadcasting\ShouldBroadcastNow;

/**
 * For every browser. A page receives it as
 * {"opcode":"broadcast","channel":"orders","event":"App\\OrderShipped","message":{"order":7}}
 */
final class OrderShipped implements ShouldBroadcastNow
{
    use InteractsWithSockets;

    public int $order;

    public function __construct(int $order)
    {
        $this->order = $order;
    }

    public function broadcastOn(): Channel
    {
        return new Channel('orders');
    }
}
