<?php

declare(strict_types=1);

namespace App;

use Closure;
use Plugsocket\Backend;
use Plugsocket\ConnectionException;
use Psr\Log\LoggerInterface;

/** Reports the progress of work to the browser that asked for it. */
final class BrowserProgress
{
    /** @param Closure(): Backend $jobs returns the connection to the application `jobs` */
    public function __construct(private Closure $jobs, private LoggerInterface $logger)
    {
    }

    /**
     * Reports one step. A host that cannot be reached does not stop the work.
     *
     * @param string $uuid of the browser, from the request that started the work
     * @param string $job any unique name of this work
     * @return bool whether the user asked to abort
     */
    public function report(string $uuid, string $job, string $text, ?float $percent = null): bool
    {
        return $this->attempt(static fn (Backend $jobs): bool => $jobs->progress($job, $text, $percent, $uuid));
    }

    /** Sends the last report: `done`, `failed` or `aborted`. */
    public function finish(string $job, string $state, string $text): void
    {
        $this->attempt(static function (Backend $jobs) use ($job, $state, $text): bool {
            $jobs->finish($job, $state, $text);
            return false;
        });
    }

    /** @param Closure(Backend): bool $report */
    private function attempt(Closure $report): bool
    {
        try {
            return $report(($this->jobs)());
        } catch (ConnectionException $lost) {
            $this->logger->warning('progress not reported', ['exception' => $lost]);
            return false;
        }
    }
}
