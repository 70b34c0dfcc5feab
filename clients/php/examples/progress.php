<?php
/**
 * Example: reports the progress of a job to the browser that started it.
 *
 *     php examples/progress.php JOB [ADDRESS]
 *
 * The browser received JOB in answer to {"opcode":"start"} on /jobs, and passed it on with the request
 * that started this script.
 */

declare(strict_types=1);

require __DIR__ . '/../plugsocket.php';

[, $job, $address] = $argv + [1 => '', 2 => '127.0.0.1:8095'];
if ($job === '') {
    fwrite(STDERR, "usage: php progress.php JOB [ADDRESS]\n");
    exit(2);
}

try {
    $jobs = new Plugsocket\Backend($address, '/jobs', ['reconnect' => 60]);
    $parts = 20;
    for ($part = 1; $part <= $parts; $part++) {
        usleep(300000); // stands for the work
        if ($jobs->progress($job, "part $part of $parts", 100 * $part / $parts)) {
            $jobs->finish($job, 'aborted', "stopped after part $part");
            exit(1);
        }
    }
    $jobs->finish($job, 'done', "all $parts parts are done");
} catch (Plugsocket\Exception $exception) {
    fwrite(STDERR, $exception->getMessage() . "\n");
    exit(1);
}
