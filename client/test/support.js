/** What the tests share: the server, a proxy that fails on demand, Backbone in every version. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import { after, afterEach, test as untimed } from 'node:test';
import { fileURLToPath } from 'node:url';
import { io } from 'socket.io-client';
import { attach } from '../src/backbone/attach.js';

const require = createRequire(import.meta.url);
const here = fileURLToPath(new URL('.', import.meta.url));
const venv = `${here}../../.venv/bin/python`;
const python = process.env.BBIO_PYTHON ?? (existsSync(venv) ? venv : 'python3');

/** Milliseconds that a test may take. */
const TEST_TIMEOUT = 180_000;

/** A test that fails by its name if it hangs: Node.js limits by itself no more than the time of a whole file. */
export const test = (name, ...rest) => untimed(name, { timeout: TEST_TIMEOUT, ...(rest.length > 1 && rest[0]) }, rest.at(-1));

/** Wait until `check` returns something true, and return it. */
export async function until(check, what = String(check), seconds = 15) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Servers that run. */
const children = new Set();
process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));

/** Start test/app.py on a port, any free one by default: `{url, port, stop}`. */
export async function startServer(port = 0) {
  const command = ['-m', 'bbio', 'run', 'app:app', '--host', '127.0.0.1', '--port', String(port)];
  const child = spawn(python, command, { cwd: here, env: { ...process.env, PYTHONUNBUFFERED: '1' } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data));
  const ended = new Promise((resolve) => child.once('exit', resolve)).then(() => children.delete(child));
  children.add(child);
  const [, found] = await until(() => {
    if (child.exitCode !== null) throw new Error(`the server ended:\n${output}`);
    return /http:\/\/127\.0\.0\.1:(\d+)/.exec(output);
  }, 'the server to start', 90);
  const stop = (signal = 'SIGKILL') => {
    child.kill(signal);
    return ended;
  };
  return { url: `http://127.0.0.1:${found}`, port: Number(found), stop };
}

/** A TCP proxy before the server: `cut()` every connection, `refuse` new ones, `deaf` to what the server says. */
export async function startProxy(target) {
  const pairs = new Set();
  const proxy = { refuse: false, deaf: false };
  const server = net.createServer((client) => {
    if (proxy.refuse) return client.destroy();
    const upstream = net.connect(proxy.target, '127.0.0.1');
    const pair = { client, upstream };
    pairs.add(pair);
    client.on('data', (data) => upstream.write(data));
    upstream.on('data', (data) => proxy.deaf || client.write(data));
    for (const [one, other] of [[client, upstream], [upstream, client]]) {
      one.on('error', () => {});
      one.on('close', () => (other.destroy(), pairs.delete(pair)));
    }
    return undefined;
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return Object.assign(proxy, {
    target,
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      for (const { client } of pairs) client.destroy();
    },
    stop() {
      proxy.cut();
      return new Promise((resolve) => server.close(resolve));
    },
  });
}

/** Have a server and a proxy before it for the tests of a file; after each the pages are closed, and the proxy works again. */
export async function serveBehindProxy() {
  const server = await startServer();
  const proxy = await startProxy(server.port);
  after(async () => {
    await proxy.stop();
    await server.stop();
  });
  afterEach(() => {
    closePages();
    Object.assign(proxy, { refuse: false, deaf: false, target: server.port });
  });
  return { server, proxy };
}

const VERSIONS = { '1.0': 'backbone-1.0', 1.1: 'backbone-1.1', 1.2: 'backbone-1.2', 1.3: 'backbone-1.3', 1.4: 'backbone-1.4', 1.5: 'backbone-1.5', 1.6: 'backbone' };
export const versions = Object.keys(VERSIONS).sort();

/** jQuery on a document of its own. */
export function loadJQuery() {
  const window = require('@mixmark-io/domino').createWindow('<html></html>');
  return require('jquery')(window);
}

/** A Backbone that nobody else has. */
export function loadBackbone({ version = '1.6', underscore = 'underscore', $ } = {}) {
  const needed = (name) => {
    if (name !== 'jquery') return require(underscore);
    throw new Error('not here');
  };
  const module = { exports: {} };
  const source = readFileSync(require.resolve(VERSIONS[version]), 'utf8');
  new Function('exports', 'require', 'module', 'define', source).call({}, module.exports, needed, module, undefined);
  if ($) module.exports.$ = $;
  return module.exports;
}

const open = new Set();

/** Socket.IO whose sockets keep what they hear, and what they say as `[event, ...]` too, in a list. */
const overheard = (list) => (...args) => {
  const socket = io(...args);
  const { io: manager } = socket;
  const { socket: make } = manager;
  manager.socket = (...more) => make.apply(manager, more).onAny((...event) => list.push(event)).onAnyOutgoing((...event) => list.push(event));
  return socket;
};

/** A page: a Backbone with `Backbone.io`, connected to `url` unless that is missing; `heard`: a list of what travels. */
export function openPage(url, { connect = {}, heard, ...how } = {}) {
  const Backbone = loadBackbone(how);
  const api = attach(Backbone, () => (heard ? overheard(heard) : io));
  open.add(api);
  if (url) api.connect(url, { transports: ['websocket'], reconnectionDelay: 50, reconnectionDelayMax: 100, jitter: 50, ...connect });
  return Backbone;
}

/** Close every page the test opened. */
export function closePages() {
  for (const { connection } of open) connection.close();
  open.clear();
}

/** The JSON of a collection, in the order of ids. */
export const contents = (collection) =>
  collection.toJSON().sort((a, b) => (JSON.stringify(a.id ?? a) < JSON.stringify(b.id ?? b) ? -1 : 1));

let channels = 0;
/** A channel of a backend that nobody has used, with these models, and a handle that writes there. */
export async function filledChannel(url, name, models) {
  const channel = `filled-${(channels += 1)}`;
  const handle = openPage(url).io.connection.backend(name, { channel });
  const made = [];
  for (const model of models) made.push(await handle.sync('create', model));
  return { name, channel, handle, made };
}
