<?php
/**
 * Mock host for the tests of the PHP client: one connection at a time, plain TCP or HTTP POST.
 *
 *     php mock_host.php tcp://127.0.0.1:0          prints the address that it listens on
 *     php mock_host.php tcp://127.0.0.1:0 log      and then each packet that it receives, one a line
 *
 * Answers a message `{"opcode":"script","writes":[…]}` with these bytes, one write each, 20 ms apart;
 * `"then":"close"` then ends the connection.
 */

declare(strict_types=1);

$server = stream_socket_server($argv[1], $number, $text) ?: exit("$text\n");
echo stream_socket_get_name($server, false), "\n";

while (true) {
    $client = @stream_socket_accept($server, -1);
    if ($client !== false) {
        serve($client);
        fclose($client);
    }
}

/** @param resource $client */
function serve($client): void
{
    $first = rtrim((string) fgets($client));
    if (strpos($first, 'POST ') === 0) {
        answer_post($client, explode(' ', $first)[1]);
        return;
    }
    $opening = [$first];
    while (($line = rtrim((string) fgets($client))) !== '') {
        $opening[] = $line;
    }
    if ($first !== 'php process' || strpos($opening[1], 'GET /') !== 0) {
        fwrite($client, '{"opcode":"close","error":"no such opening: ' . implode(' | ', $opening) . "\"}\n");
        return;
    }
    if ($opening[1] === 'GET /silent HTTP/1.1') {
        sleep(1);
        return;
    }
    if ($opening[1] === 'GET /nowhere HTTP/1.1') {
        fwrite($client, "{\"opcode\":\"close\",\"error\":\"no application is mapped to /nowhere\"}\n");
        return;
    }
    if ($opening[1] === 'GET /later HTTP/1.1') {
        fwrite($client, "{\"opcode\":\"close\",\"error\":\"come later\",\"retry_after\":9}\n");
        return;
    }
    if ($opening[1] === 'GET /busy HTTP/1.1') {
        fwrite($client, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nRetry-After: 3\r\nConnection: close\r\n\r\nfull");
        return;
    }
    if ($opening[1] === 'GET /forbidden HTTP/1.1') {
        fwrite($client, "HTTP/1.1 403 Forbidden\r\nContent-Length: 27\r\nConnection: close\r\n\r\nthis address is not allowed");
        return;
    }
    if ($opening[1] === 'GET /full HTTP/1.1') {
        // Read nothing, so that the socket buffers fill up.
        fwrite($client, "{\"opcode\":\"ready\",\"uuid\":\"U\"}\n");
        sleep(600);
        return;
    }
    fwrite($client, json_encode(['opcode' => 'ready', 'uuid' => 'U', 'opening' => $opening]) . "\n");
    if (strpos($opening[1], 'heartbeat=') !== false) {
        fwrite($client, "{\"opcode\":\"heartbeat\"}\n");
    }
    while (($line = fgets($client)) !== false && reply($client, $line, $opening)) {
        continue;
    }
}

/** @param resource $client */
function reply($client, string $line, array $opening): bool
{
    $packet = json_decode($line, true);
    if (($GLOBALS['argv'][2] ?? '') === 'log') {
        echo json_encode($packet), "\n";
    }
    $fyi = '';
    switch ($packet['opcode'] ?? '') {
        case 'script':
            foreach ($packet['writes'] as $bytes) {
                fwrite($client, $bytes);
                usleep(20000);
            }
            return ($packet['then'] ?? '') !== 'close';
        case 'opening':
            fwrite($client, json_encode(['opcode' => 'opening', 'lines' => $opening]) . "\n");
            break;
        case 'echo':
            fwrite($client, $line);
            break;
        case 'feedback':
            $verdicts = ['here' => 'delivered', 'printer' => 'delivered', 'malformed' => 'malformed uuid'];
            $fyi = $verdicts[$packet['uuid'] ?? $packet['ident']] ?? 'gone';
            fwrite($client, json_encode(['opcode' => 'seen', 'packet' => $packet]) . "\n");
            break;
        case 'progress':
            if (strpos($packet['text'], 'lost') === 0 && $opening[1] === 'GET /jobs HTTP/1.1' && !isset($GLOBALS['lost'][$packet['text']])) {
                return !($GLOBALS['lost'][$packet['text']] = true);
            }
            $isAbort = strpos($packet['text'], 'abort') === 0;
            $fyi = $opening[1] !== 'GET /jobs HTTP/1.1' ? '' : ($isAbort ? 'abort' : 'watched');
    }
    fwrite($client, json_encode(['opcode' => 'next', 'fyi' => $fyi]) . "\n");
    return true;
}

/** @param resource $client */
function answer_post($client, string $path): void
{
    $length = 0;
    $token = '';
    while (($line = rtrim((string) fgets($client))) !== '') {
        if (stripos($line, 'Content-Length:') === 0) {
            $length = (int) trim(substr($line, 15));
        }
        if (stripos($line, 'Authorization:') === 0) {
            $token = trim(substr($line, 14));
        }
    }
    $body = $length > 0 ? stream_get_contents($client, $length) : '';
    $answers = [
        '/php' => ['200 OK', "$body\n{\"opcode\":\"next\",\"fyi\":\"delivered\"}"],
        '/headers' => ['200 OK', json_encode(['opcode' => 'next', 'fyi' => $token])],
        '/busy' => ["503 Service Unavailable\r\nRetry-After: 3", 'full'],
    ];
    [$status, $answer] = $answers[$path] ?? ['404 Not Found', "no application is mapped to $path"];
    fwrite($client, "HTTP/1.1 $status\r\nContent-Length: " . strlen($answer) . "\r\nConnection: close\r\n\r\n$answer");
}
