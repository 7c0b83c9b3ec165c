/** The package as npm publishes it, and its tests. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { test } from './support.js';

const client = fileURLToPath(new URL('..', import.meta.url));
const run = (command, args, cwd) => execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

let project;
let packed;
before(() => {
  project = mkdtempSync(join(tmpdir(), 'bbio-client-'));
  // npm tells its scripts where it is itself; alone, `node --test` takes the one on PATH.
  const npm = process.env.npm_execpath;
  const [command, ...first] = npm ? [process.execPath, npm] : ['npm'];
  const pack = [...first, 'pack', '--json', '--ignore-scripts', '--pack-destination', project];
  [packed] = JSON.parse(run(command, pack, client));
  run('tar', ['-xzf', packed.filename], project);
  mkdirSync(join(project, 'node_modules'));
  symlinkSync(join(project, 'package'), join(project, 'node_modules', 'bbio-client'));
  for (const modules of [join(project, 'node_modules'), join(project, 'package', 'node_modules')]) {
    mkdirSync(modules, { recursive: true });
    for (const name of ['backbone', 'socket.io-client']) symlinkSync(join(client, 'node_modules', name), join(modules, name));
  }
});
after(() => rmSync(project, { recursive: true, force: true }));

test('what is packed is the built scripts, their types and maps, and what there is to read', () => {
  const files = packed.files.map(({ path }) => path);
  const scripts = ['backbone.io.js', 'backbone.io.min.js', 'backbone.io.mjs', 'backbone.io.cjs'];
  const expected = scripts.flatMap((name) => [`dist/${name}`, `dist/${name}.map`]);
  for (const name of [...expected, 'dist/index.d.ts', 'backbone.d.ts', 'README.md', 'LICENSE', 'package.json']) {
    assert.ok(files.includes(name), name);
  }
  const rest = files.filter((name) => !expected.includes(name) && !/^dist\/.*\.d\.ts$/.test(name)).sort();
  assert.deepEqual(rest, ['LICENSE', 'README.md', 'backbone.d.ts', 'package.json']);
});

const USE = `
const client = attach(Backbone);
const kinds = [typeof connect, typeof client.connect, typeof Backbone.Model.prototype.bindBackend, new SyncError('x').name];
console.log(kinds.join());
`;
const WORKS = 'function,function,function,SyncError';

test('CommonJS requires it', () => {
  writeFileSync(
    join(project, 'use.cjs'),
    `const Backbone = require('backbone');\nconst { attach, connect, SyncError } = require('bbio-client');${USE}`,
  );
  assert.equal(run(process.execPath, ['use.cjs'], project).trim(), WORKS);
});

test('an ES module imports it', () => {
  writeFileSync(
    join(project, 'use.mjs'),
    `import Backbone from 'backbone';\nimport { attach, connect, SyncError } from 'bbio-client';${USE}`,
  );
  assert.equal(run(process.execPath, ['use.mjs'], project).trim(), WORKS);
});

test('each test has a time of its own, so that one that hangs is named', () => {
  const folder = join(client, 'test');
  const files = readdirSync(folder).filter((name) => name.endsWith('.test.js'));
  const untimed = files.filter((name) => /^import .*\btest\b.* from 'node:test'/m.test(readFileSync(join(folder, name), 'utf8')));
  assert.deepEqual(untimed, []);
});
