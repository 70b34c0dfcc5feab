/** Chromium for tests: CHROMIUM, by default /usr/bin/chromium. */
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Why tests in the browser are skipped, or false. */
export const skip = !existsSync(executablePath) && `Chromium is missing: no file ${executablePath}; CHROMIUM can name another one`;

export const launch = () => chromium.launch({ executablePath, args: FLAGS, chromiumSandbox: false });
