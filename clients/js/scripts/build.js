/**
 * Makes the files of the package that are not in the repository: the client as a CommonJS module,
 * because `require` of an ES module needs Node 22.12, its declarations, and the license.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../', import.meta.url));
const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc');

// Beside the result, because a rename does not leave its file system.
const folder = mkdtempSync(join(root, '.build-'));
try {
  const options = ['--ignoreConfig', '--allowJs', '--module', 'commonjs', '--target', 'es2022', '--outDir', folder];
  execFileSync(process.execPath, [tsc, join(root, 'plugsocket.js'), ...options], { stdio: 'inherit' });
  renameSync(join(folder, 'plugsocket.js'), join(root, 'plugsocket.cjs'));
} finally {
  rmSync(folder, { recursive: true });
}
copyFileSync(join(root, 'plugsocket.d.ts'), join(root, 'plugsocket.d.cts'));
copyFileSync(join(root, '../../LICENSE'), join(root, 'LICENSE'));
