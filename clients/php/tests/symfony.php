<?php
/**
 * Tests of the Symfony example, with Symfony's container, against mock_host.php.
 *
 *     php clients/php/tests/symfony.php
 */

declare(strict_types=1);

use App\BrowserProgress;
use App\ImportOrders;
use Psr\Log\AbstractLogger;
use Psr\Log\LoggerInterface;
use Symfony\Component\Config\FileLocator;
use Symfony\Component\DependencyInjection\ContainerBuilder;
use Symfony\Component\DependencyInjection\Loader\YamlFileLoader;

$example = __DIR__ . '/../examples/symfony';
require __DIR__ . '/packages.php';
load_packages($example, [
    'Symfony/Component/DependencyInjection/autoload.php',
    'Symfony/Component/Config/autoload.php',
    'Symfony/Component/Yaml/autoload.php',
    'Psr/Log/autoload.php',
], ['App\\' => "$example/src"]);
require __DIR__ . '/support.php';
error_reporting(E_ALL & ~E_DEPRECATED);

/** Keeps what is logged. */
final class MemoryLogger extends AbstractLogger
{
    /** @var list<string> */
    public array $lines = [];

    public function log($level, $message, array $context = []): void
    {
        $this->lines[] = "$level: $message: " . $context['exception']->getMessage();
    }
}

/** Boots a container with the example's services, as the kernel of Symfony does. */
function boot(string $address, MemoryLogger $logger): ContainerBuilder
{
    $_ENV['PLUGSOCKET_ADDRESS'] = $address;
    $container = new ContainerBuilder();
    (new YamlFileLoader($container, new FileLocator(__DIR__ . '/../examples/symfony/config')))->load('services.yaml');
    $container->register(LoggerInterface::class, MemoryLogger::class)->setSynthetic(true)->setPublic(true);
    // A container removes services that nothing uses.
    foreach ([BrowserProgress::class, ImportOrders::class] as $service) {
        $container->getDefinition($service)->setPublic(true);
    }
    $container->compile(true);
    $container->set(LoggerInterface::class, $logger);
    return $container;
}

$tests = [
    'the work reports to the browser with this uuid' => static function (): void {
        [$address, $log] = start_logging_host('tcp://127.0.0.1:0');
        $count = boot($address, new MemoryLogger())->get(ImportOrders::class)->import(['A1', 'B2'], 'here');
        same(2, $count);
        [$first, $second, $last] = [arrived($log), arrived($log), arrived($log)];
        same(['opcode' => 'progress', 'job' => $first['job'], 'text' => 'order A1', 'percent' => 50, 'uuid' => 'here'], $first);
        same(['opcode' => 'progress', 'job' => $first['job'], 'text' => 'order B2', 'percent' => 100, 'uuid' => 'here'], $second);
        same(['opcode' => 'done', 'job' => $first['job'], 'text' => '2 orders are imported'], $last);
    },
    'the work ends when the user asks to abort' => static function (): void {
        [$address, $log] = start_logging_host('tcp://127.0.0.1:0');
        $container = boot($address, new MemoryLogger());
        same(true, $container->get(BrowserProgress::class)->report('here', 'J', 'abort now'));
        same(['opcode' => 'progress', 'job' => 'J', 'text' => 'abort now', 'uuid' => 'here'], arrived($log));
    },
    'a host that cannot be reached is logged, and does not stop the work' => static function (): void {
        $logger = new MemoryLogger();
        $container = boot('127.0.0.1:1', $logger);
        same([], $logger->lines);
        $container->get(BrowserProgress::class)->finish('J', 'done', '');
        same(1, count($logger->lines));
        same(0, strpos($logger->lines[0], 'warning: progress not reported: no connection to tcp://127.0.0.1:1'));
    },
];

run_tests($tests);
