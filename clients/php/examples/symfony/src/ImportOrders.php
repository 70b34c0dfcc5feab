<?php

declare(strict_types=1);

namespace App;

/** Stands for long work: a handler of Messenger, or a command. */
final class ImportOrders
{
    public function __construct(private BrowserProgress $progress)
    {
    }

    /**
     * @param list<string> $orders
     * @param string $uuid of the browser, from the request that started the import
     * @return int how many were imported, fewer if the user asked to abort
     */
    public function import(array $orders, string $uuid): int
    {
        $job = bin2hex(random_bytes(16));
        foreach ($orders as $index => $order) {
            // Here an order is imported.
            $count = $index + 1;
            if ($this->progress->report($uuid, $job, "order $order", 100 * $count / count($orders))) {
                $this->progress->finish($job, 'aborted', "stopped after $count orders");
                return $count;
            }
        }
        $this->progress->finish($job, 'done', count($orders) . ' orders are imported');
        return count($orders);
    }
}
