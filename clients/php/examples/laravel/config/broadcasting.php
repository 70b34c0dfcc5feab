<?php

return [
    'default' => env('BROADCAST_DRIVER', 'plugsocket'),

    'connections' => [
        'plugsocket' => [
            'driver' => 'plugsocket',
            'address' => env('PLUGSOCKET_ADDRESS', '127.0.0.1:8095'),
            'resource' => env('PLUGSOCKET_RESOURCE', '/php'),
            // Of Plugsocket\Backend. With `reconnect`, an event waits for so many seconds while the host restarts.
            'options' => ['timeout' => 5.0, 'reconnect' => 5.0],
        ],
    ],
];
