// Builds dist/: the browser's script (plain and minified), the ES module, the CommonJS module and the type declarations.
import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const { version } = JSON.parse(readFileSync(`${here}package.json`, 'utf8'));
const shared = {
  absWorkingDir: here,
  bundle: true,
  target: 'es2022',
  charset: 'utf8',
  banner: { js: `/*! bbio-client ${version} | MIT */` },
  external: ['socket.io-client'],
  sourcemap: true,
  logLevel: 'warning',
};

rmSync(`${here}dist`, { recursive: true, force: true });
await Promise.all([
  build({ ...shared, entryPoints: ['src/browser.js'], format: 'iife', outfile: 'dist/backbone.io.js' }),
  build({ ...shared, entryPoints: ['src/browser.js'], format: 'iife', minify: true, outfile: 'dist/backbone.io.min.js' }),
  build({ ...shared, entryPoints: ['src/index.js'], format: 'esm', outfile: 'dist/backbone.io.mjs' }),
  build({ ...shared, entryPoints: ['src/index.js'], format: 'cjs', outfile: 'dist/backbone.io.cjs' }),
]);

const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
execFileSync(process.execPath, [tsc, '-p', `${here}tsconfig.json`], { stdio: 'inherit' });
