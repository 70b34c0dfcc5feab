<?php
/**
 * Loads the packages of an example: those that composer has installed in its folder, or those of
 * Debian. To be required before the client, which composer loads itself.
 */

declare(strict_types=1);

/**
 * Loads the packages, or exits with 77, which means that they are missing.
 *
 * @param string $example folder with a composer.json
 * @param list<string> $debian what to load from the include path without composer's vendor folder
 * @param array<string, string> $sources the example's namespaces and their folders
 */
function load_packages(string $example, array $debian, array $sources): void
{
    if (is_file("$example/vendor/autoload.php")) {
        require "$example/vendor/autoload.php";
        return;
    }
    foreach ($debian as $file) {
        if (stream_resolve_include_path($file) === false) {
            echo "neither $example/vendor nor $file is installed\n";
            exit(77);
        }
        require_once $file;
    }
    spl_autoload_register(static function (string $class) use ($sources): void {
        foreach ($sources as $namespace => $folder) {
            if (strpos($class, $namespace) === 0) {
                require $folder . '/' . strtr(substr($class, strlen($namespace)), '\\', '/') . '.php';
            }
        }
    });
}
