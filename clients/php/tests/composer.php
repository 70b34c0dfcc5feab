<?php
/**
 * Tests that composer installs the client as a package, from this folder and without a network.
 *
 *     php clients/php/tests/composer.php
 */

declare(strict_types=1);

require __DIR__ . '/support.php';

$package = dirname(__DIR__);
exec('composer --version 2>&1', $version, $code);
if ($code !== 0) {
    echo "composer is missing\n";
    exit(77);
}

/** Runs a command in a folder and returns what it prints. */
function output(string $folder, string $command): string
{
    exec('cd ' . escapeshellarg($folder) . " && COMPOSER_ALLOW_SUPERUSER=1 $command 2>&1", $lines, $code);
    $text = implode("\n", $lines);
    if ($code !== 0) {
        throw new Exception("$command: $text");
    }
    return $text;
}

/** Returns the output of code in a project. */
function evaluate(string $folder, string $code): string
{
    return output($folder, escapeshellarg(PHP_BINARY) . ' -r ' . escapeshellarg($code));
}

$project = sys_get_temp_dir() . '/plugsocket-composer-' . getmypid();
mkdir($project);
register_shutdown_function(static function () use ($project): void {
    exec('rm -rf ' . escapeshellarg($project));
});

$tests = [
    'composer accepts the description of the package, and of its examples' => static function () use ($package): void {
        output($package, 'composer validate --strict --no-check-lock --no-check-publish');
        foreach (glob("$package/examples/*/composer.json") as $example) {
            // Not strict, which wants an upper bound of each version.
            output(dirname($example), 'composer validate --no-check-lock --no-check-publish');
        }
    },
    'a project installs it from the folder' => static function () use ($package, $project): void {
        file_put_contents("$project/composer.json", json_encode([
            'repositories' => [['type' => 'path', 'url' => $package], ['packagist.org' => false]],
            'require' => ['plugsocket/client' => '@dev'],
        ]));
        output($project, 'composer install --no-interaction');
        $code = 'require "vendor/autoload.php"; echo json_encode([function_exists("plugsocket_post"), class_exists("Plugsocket\\\\Backend")]);';
        same('[true,true]', evaluate($project, $code));
    },
    'the file may be required beside it' => static function () use ($package, $project): void {
        $code = "require 'vendor/autoload.php'; require_once '$package/plugsocket.php'; echo 'both';";
        same('both', evaluate($project, $code));
    },
];

run_tests($tests);
