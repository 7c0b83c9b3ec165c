/** The package's types, as TypeScript sees them in a project that uses it with @types/backbone. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { test } from './support.js';

const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
const folder = fileURLToPath(new URL('types/', import.meta.url));

test('what is right compiles, and of what is wrong every line is refused', async () => {
  const output = await new Promise((resolve) => {
    execFile(process.execPath, [tsc, '-p', folder, '--pretty', 'false'], { cwd: folder }, (_, stdout) => resolve(stdout));
  });
  const refused = [...output.matchAll(/^(\S+)\((\d+),/gm)].map(([, file, line]) => `${file}:${line}`);
  const wrong = readFileSync(`${folder}wrong.ts`, 'utf8').split('\n');
  const marked = wrong.flatMap((text, index) => (text.endsWith('// wrong') ? [`wrong.ts:${index + 1}`] : []));
  assert.deepEqual([...new Set(refused)], marked, output);
});
