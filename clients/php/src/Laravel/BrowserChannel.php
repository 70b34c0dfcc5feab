<?php

declare(strict_types=1);

namespace Plugsocket\Laravel;

use Illuminate\Broadcasting\Channel;

/** Channel of one browser: an event on it is sent to the connection with this uuid only. */
final class BrowserChannel extends Channel
{
    public const PREFIX = 'private-browser.';

    /** @param string $uuid as the page received it in `ready` */
    public function __construct(string $uuid)
    {
        parent::__construct(self::PREFIX . $uuid);
    }
}
