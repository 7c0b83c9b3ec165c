/** The core without Backbone, the parts of it that are pure, and the built files. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, describe } from 'node:test';
import vm from 'node:vm';
import * as socketio from 'socket.io-client';
import { Follower } from '../src/core/follower.js';
import { Handle } from '../src/core/handle.js';
import { plain, same } from '../src/core/json.js';
import { Outbox } from '../src/core/outbox.js';
import { Replica } from '../src/core/replica.js';
import * as source from '../src/index.js';
import { loadBackbone, startProxy, startServer, test, until } from './support.js';

const require = createRequire(import.meta.url);
const built = (name) => new URL(`../dist/${name}`, import.meta.url);

describe('a connection without Backbone', () => {
  let server;
  before(async () => (server = await startServer()));
  after(() => server.stop());

  test('syncs with promises and hears of what others write', async () => {
    const [one, two] = [1, 2].map(() => source.connect(server.url, { transports: ['websocket'] }));
    const [mine, theirs] = [one, two].map((connection) => connection.backend('rooms', { channel: 'core' }));
    const heard = [];
    for (const [name, handle] of Object.entries({ mine, theirs })) handle.on('synced', (method, model) => heard.push([name, method, model.id]));
    const listening = new Promise((resolve) => theirs.on('listening', resolve));
    await listening;
    const { id } = await mine.sync('create', { text: 'x' });
    await mine.sync('patch', { id, text: 'y' });
    await mine.sync('delete', { id });
    await until(() => heard.length === 3);
    assert.deepEqual(heard, [['theirs', 'create', id], ['theirs', 'update', id], ['theirs', 'delete', id]]);
    assert.deepEqual(await theirs.sync('read'), []);
    const err = await theirs.sync('read', { id: 'none' }).then(assert.fail, (err) => err);
    assert.ok(err instanceof source.SyncError && err instanceof Error);
    assert.equal(JSON.parse(JSON.stringify(err)).name, 'NotFound');
    assert.equal(one.backend('rooms', { channel: 'core' }), mine, 'one handle for a name and channel');
    one.close();
    two.close();
  });

  test('tells at once that the server refuses the origin, and goes on trying', async () => {
    const connection = source.connect(server.url, { extraHeaders: { origin: 'http://other.example' }, reconnectionDelay: 20, reconnectionDelayMax: 20 });
    const rooms = connection.backend('rooms');
    const told = [];
    rooms.on('error', (err) => told.push(err));
    for (const method of ['read', 'create']) {
      const err = await rooms.sync(method).then(assert.fail, (err) => err);
      assert.deepEqual([err.name, err.code], ['Forbidden', 403]);
      assert.match(err.message, /^the server refused the connection to http.* \(403\): is this page's origin allowed\?/);
    }
    assert.equal(told.length, 1);
    connection.connect(server.url, { path: '/elsewhere' });
    const err = await rooms.sync('read').then(assert.fail, (err) => err);
    assert.deepEqual([err.name, err.code], ['Unavailable', 404]);
    connection.connect(server.url);
    assert.deepEqual(await rooms.sync('read'), []);
    connection.close();
  });

  test('sends a model as it was when it was given, however long it waits', async () => {
    const connection = source.connect(server.url, { transports: ['websocket'] });
    const handle = connection.backend('rooms', { channel: 'given' });
    const model = { title: 'milk', tags: ['a'] };
    const made = handle.sync('create', model);
    model.title = 'tea';
    model.tags.push('b');
    const { id } = await made;
    assert.deepEqual(await handle.sync('read'), [{ id, title: 'milk', tags: ['a'] }]);
    connection.close();
  });

  test('moves its backends along when it connects anew', async () => {
    const connection = source.connect('http://127.0.0.1:1', { transports: ['websocket'] });
    const read = connection.backend('rooms').sync('read');
    connection.connect(server.url, { transports: ['websocket'] });
    assert.deepEqual(await read, []);
    connection.close();
  });

  test('joins a backend with `auth`, an object or what a function gives each time', async () => {
    const proxy = await startProxy(server.port);
    const options = { transports: ['websocket'], reconnectionDelay: 10, reconnectionDelayMax: 20, jitter: 10 };
    let asked = 0;
    const told = async (connection) => (await connection.backend('guests').sync('read'))[0].auth;
    const cases = [
      [undefined, null, null],
      [{ token: 'mine' }, { token: 'mine' }, { token: 'mine' }],
      [(give) => setTimeout(() => give({ token: (asked += 1) })), { token: 1 }, { token: 2 }],
    ];
    for (const [auth, first, second] of cases) {
      const connection = source.connect(proxy.url, { ...options, auth });
      assert.deepEqual(await told(connection), first);
      const offline = new Promise((resolve) => connection.backend('guests').on('offline', resolve));
      proxy.cut();
      await offline;
      assert.deepEqual(await told(connection), second);
      connection.connect(proxy.url, { ...options, auth: { token: 'another' } });
      assert.deepEqual(await told(connection), { token: 'another' }, 'after a log-in');
      connection.close();
    }
    await proxy.stop();
  });

  test('is told why the server takes no such `auth`', async () => {
    const auth = { token: 'x'.repeat(10_000) };
    const connection = source.connect(server.url, { transports: ['websocket'], auth });
    const err = await connection.backend('guests').sync('read').then(assert.fail, (err) => err);
    assert.equal(err.name, 'BadRequest');
    assert.match(err.message, /refused the backend "guests": auth may have 8192 bytes/);
    auth.token = 'short';
    assert.deepEqual(await connection.backend('guests').sync('read'), [{ auth }], 'the next request tries again');
    connection.close();
  });

  for (const file of ['backbone.io.js', 'backbone.io.min.js']) {
    test(`${file} serves a page, with and without Backbone`, async () => {
      const script = readFileSync(built(file), 'utf8');
      const Backbone = loadBackbone();
      const page = { io: socketio.io, Backbone, crypto, performance, setTimeout, clearTimeout };
      vm.runInNewContext(script, page);
      Backbone.io.connect(server.url, { transports: ['websocket'] });
      assert.deepEqual(await new Backbone.Collection([], { backend: 'rooms' }).fetch(), []);
      Backbone.io.connection.close();
      Backbone.io.noConflict();
      assert.equal('io' in Backbone, false);

      const bare = { io: socketio.io, crypto, performance, setTimeout, clearTimeout };
      vm.runInNewContext(script, bare);
      const connection = bare.bbio.connect(server.url, { transports: ['websocket'] });
      assert.deepEqual([...(await connection.backend('rooms').sync('read'))], []);
      connection.close();
    });
  }
});

test('the built modules export the same for import and require', async () => {
  const names = ['Collection', 'Connection', 'Handle', 'Presence', 'SyncError', 'attach', 'connect'];
  assert.deepEqual(Object.keys(await import(built('backbone.io.mjs'))), names);
  assert.deepEqual(Object.keys(require('../dist/backbone.io.cjs')).sort(), names);
  assert.match(readFileSync(built('index.d.ts'), 'utf8'), /connect/);
});

test('a page that was away opens its connection again, and one that was just loaded leaves it', () => {
  const listeners = new Map();
  globalThis.addEventListener = (type, listener) => listeners.set(type, listener);
  globalThis.removeEventListener = (type, listener) => listeners.get(type) === listener && listeners.delete(type);
  const done = [];
  const io = () => {
    const socket = { connected: true, active: true, on() {}, off() {}, emit() {}, connect() {}, disconnect: () => done.push('closed') };
    done.push('opened');
    return { io: { uri: 'sim', socket: () => socket } };
  };
  try {
    const connection = new source.Connection(() => io).connect();
    connection.backend('rooms');
    const told = (type, fields) => (listeners.get(type)({ type, ...fields }), done.splice(0));
    assert.deepEqual(done.splice(0), ['opened']);
    assert.deepEqual(told('pageshow', { persisted: false }), []);
    assert.deepEqual(told('pageshow', { persisted: true }), ['opened', 'closed']);
    assert.deepEqual(told('online'), ['opened', 'closed']);
    connection.close();
    assert.deepEqual([...listeners.keys()], []);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

test('a page without Socket.IO is told what to load', () => {
  const page = { crypto, performance, setTimeout, clearTimeout };
  vm.runInNewContext(readFileSync(built('backbone.io.js'), 'utf8'), page);
  assert.throws(() => page.bbio.connect(), /load \/socket\.io\/socket\.io\.js before/);
});

test('a model that is not JSON fails, and nothing is sent', async () => {
  const model = {};
  model.self = model;
  const handle = new source.Connection(() => socketio.io).backend('rooms');
  const err = await handle.sync('create', model).then(assert.fail, (err) => err);
  assert.deepEqual([err.name, err.code], ['BadRequest', 400]);
});

test('a backend is named by strings', () => {
  const connection = new source.Connection(() => socketio.io);
  assert.throws(() => connection.backend(''), /named by a string/);
  assert.throws(() => connection.backend('a', { channel: 7 }), /channel of "a" must be a string/);
});

test('what is not JSON is left out of options', () => {
  const cycle = { name: 'c' };
  cycle.self = cycle;
  const value = {
    fn() {}, nan: NaN, when: new Date(0), never: new Date(NaN), map: new Map(), none: undefined, symbol: Symbol('s'), nil: null,
    list: [1, undefined, () => 1], bare: Object.assign(Object.create(null), { a: 1 }), cycle, ['__proto__']: { polluted: true },
  };
  assert.deepEqual(plain(value), { when: '1970-01-01T00:00:00.000Z', nil: null, list: [1, null, null], bare: { a: 1 }, cycle: { name: 'c' } });
});

test('same compares as JSON does', () => {
  assert.ok(same({ a: [1, { b: null }] }, { a: [1, { b: null }] }) && same({ a: 1, b: 2 }, { b: 2, a: 1 }));
  for (const [a, b] of [[{}, []], [{ a: undefined }, {}], [1, '1'], [null, {}], [[1], [1, 2]]]) assert.ok(!same(a, b));
});

test('a write that was answered and comes as an event, too, is told to be known', () => {
  const told = [];
  const handle = new Handle({ name: 'todos', join() {} }, null);
  handle.attach({ apply: (list) => told.push(...list.map(({ meta, acked }) => [meta.o, acked])), reread() {}, tell() {} });
  const meta = (o) => ({ s: 'c:', e: 'e', o });
  const notified = (id, o, own) => handle.notified([{ method: 'create', raw: { id }, meta: meta(o), own }]);
  handle.wrote({ method: 'create', model: {} }, { id: 1 }, meta(1), []);
  notified(1, 1, true);
  notified(2, 2, true);
  notified(1, 1, false);
  for (let o = 10; o < 1010; o += 1) handle.wrote({ method: 'delete', model: {} }, null, meta(o), [...handle.mirrors]);
  notified(1, 1, true);
  assert.deepEqual(told, [[1, undefined], [1, true], [2, false], [1, undefined], [1, false]]);
});

/** Run code of the client while `reportError` is there; returns what was reported. */
function reporting(run) {
  const reports = [];
  globalThis.reportError = (err) => reports.push(err.message);
  try {
    run();
  } finally {
    delete globalThis.reportError;
  }
  return reports;
}

test('what one who is told of a record does to it, or throws, is nothing to the others', () => {
  const handle = new Handle({ name: 'todos', join() {} }, null);
  const told = [];
  handle.on('synced', (_, model) => {
    model.tags.pop();
    throw new Error('listener');
  });
  const failing = { apply() { throw new Error('mirror'); }, reread() {}, tell() {} };
  handle.attach(failing);
  handle.attach({ ...failing, apply: (list) => told.push(...list.map(({ raw }) => raw)) });
  const reports = reporting(() => handle.notified([{ method: 'create', raw: { id: 1, tags: ['a'] } }]));
  assert.deepEqual([told, reports], [[{ id: 1, tags: ['a'] }], ['listener', 'mirror']]);
});

test('a callback that throws is reported, and its request is answered', () => {
  const outbox = new Outbox('me');
  const throwing = () => {
    throw new Error('callback');
  };
  const entry = outbox.add({ handle: 1, request: { method: 'create' }, done: throwing });
  let first;
  assert.deepEqual(reporting(() => (first = outbox.settle(entry, null, {}))), ['callback']);
  assert.deepEqual([first, outbox.entries], [true, []]);
});

describe('a follower', () => {
  const reply = (offset, { epoch = 'e', recovered = true, events = [] } = {}) => ({ v: 1, streams: { 'c:': { epoch, offset, recovered, events } } });
  const meta = (o, e = 'e') => ({ s: 'c:', e, o });
  const kinds = (effects) => effects.map((effect) => effect.do).filter((kind) => kind !== 'moved');
  const live = (offset = 0) => {
    const follower = new Follower();
    follower.connected();
    follower.listened(reply(offset, { recovered: false }));
    return follower;
  };

  test('tells the stamp of its place, where the server tells stamps', () => {
    const follower = live(5);
    assert.deepEqual(follower.since, { 'c:': ['e', 5] });
    follower.event('update', {}, { ...meta(6), k: 66 });
    assert.deepEqual(follower.since, { 'c:': ['e', 6, 66] });
    follower.acked({ ...meta(8), k: 88 });
    follower.acked({ ...meta(9), k: 99 });
    assert.deepEqual(follower.since, { 'c:': ['e', 6, 66] });
    follower.event('update', {}, { ...meta(7), k: 77 });
    assert.deepEqual(follower.since, { 'c:': ['e', 9, 99] });
    const again = new Follower({ ...follower.since, '*': ['f', 3] });
    assert.deepEqual(again.connected(), [{ do: 'listen', since: { 'c:': ['e', 9, 99], '*': ['f', 3] }, again: false }]);
    const streams = { 'c:': { epoch: 'e', offset: 9, stamp: 99, recovered: true }, '*': { epoch: 'f', offset: 3, stamp: 33, recovered: true } };
    again.listened({ v: 1, streams });
    assert.deepEqual(again.since, { 'c:': ['e', 9, 99], '*': ['f', 3, 33] });
  });

  test('takes revisions for those of another history when nothing is recovered', () => {
    const follower = live(5);
    follower.disconnected();
    follower.connected();
    const [, read] = follower.listened(reply(7, { recovered: false }));
    assert.deepEqual(read, { do: 'read', renewed: true });
  });

  test('is ready, and says so, when a listen succeeds after one that was refused', () => {
    const follower = new Follower();
    follower.connected();
    follower.refused();
    assert.ok(follower.ready, 'syncs may be answered all the same');
    assert.deepEqual(kinds(follower.listened(reply(5, { recovered: false }))), ['ready']);
  });

  test('listens when it is let in, whatever was answered before, and asks nothing once that has ended', () => {
    const follower = new Follower();
    follower.connected();
    assert.deepEqual(follower.invited(), [], 'the listen under way will be answered');
    follower.refused();
    assert.deepEqual(follower.gap(), []);
    assert.deepEqual(kinds(follower.invited()), ['listen']);
    follower.listened(reply(5));
    assert.deepEqual(kinds(follower.invited()), ['listen'], 'what it is told may be other than before');
    follower.listened(reply(5));
    follower.dismissed();
    assert.ok(follower.ready);
    assert.deepEqual([follower.gap(), follower.event('update', {}, meta(6))], [[], []]);
    assert.deepEqual(follower.invited(), [{ do: 'listen', since: follower.since, again: false }]);
    assert.deepEqual(kinds(follower.listened(reply(6, { events: [['update', {}, meta(6)]] }))).slice(0, 1), ['apply']);
    follower.dismissed();
    follower.disconnected();
    assert.deepEqual(kinds(follower.connected()), ['listen']);
  });

  test('asks once about an event of another epoch: the reply covers it', () => {
    const follower = live(5);
    assert.deepEqual(kinds(follower.event('update', {}, { ...meta(3), e: 'past' })), ['listen']);
    assert.deepEqual(kinds(follower.listened(reply(5))), []);
    assert.deepEqual(kinds(follower.event('update', {}, meta(6))), ['apply']);
  });

  test('asks again about an event of another epoch that came while it was asking', () => {
    const follower = live(5);
    assert.deepEqual(kinds(follower.event('update', {}, meta(8))), ['listen']);
    follower.event('update', {}, { ...meta(1), e: 'next' });
    assert.ok(kinds(follower.listened(reply(5, { recovered: true }))).includes('listen'));
    assert.ok(!kinds(follower.listened(reply(5, { recovered: true }))).includes('listen'));
  });

  test('applies an event once and in its place, and listens again at a gap', () => {
    const follower = live(5);
    assert.deepEqual(kinds(follower.event('update', {}, meta(6))), ['apply']);
    assert.deepEqual(kinds(follower.event('update', {}, meta(6))), []);
    const [listen] = follower.event('update', {}, meta(8));
    assert.deepEqual(listen, { do: 'listen', since: { 'c:': ['e', 6] }, again: true });
    assert.deepEqual(kinds(follower.event('update', {}, meta(9))), [], 'waits for the reply');
    const effects = follower.listened(reply(8, { events: [['update', {}, meta(7)], ['update', {}, meta(8)]] }));
    assert.deepEqual(effects.filter((effect) => effect.do === 'apply').map((effect) => effect.meta.o), [7, 8, 9]);
    assert.deepEqual(follower.since, { 'c:': ['e', 9] });
  });

  test('adopts a new position only when everything has been read', () => {
    const follower = live(5);
    follower.disconnected();
    follower.connected();
    assert.deepEqual(kinds(follower.listened(reply(2, { epoch: 'f', recovered: false }))), ['ready', 'read']);
    assert.deepEqual(follower.since, {});
    follower.disconnected();
    follower.connected();
    assert.deepEqual(kinds(follower.listened(reply(3, { epoch: 'f', recovered: false }))), ['ready', 'read']);
    follower.event('update', {}, meta(4, 'f'));
    follower.complete();
    assert.deepEqual(follower.since, { 'c:': ['f', 4] });
  });

  test('a place told by a reply needs no event, and one told early is watched', () => {
    const follower = live();
    follower.acked(meta(1));
    assert.deepEqual(kinds(follower.acked(meta(3))), ['watch']);
    assert.deepEqual(kinds(follower.overdue()), ['listen']);
    const other = live();
    other.acked(meta(2));
    assert.deepEqual(kinds(other.event('update', {}, meta(1))), ['apply']);
    assert.deepEqual(other.since, { 'c:': ['e', 2] });
    assert.deepEqual(kinds(other.overdue()), []);
  });

  test('a reply that does not lead up to what it promises means reading everything', () => {
    const follower = live(5);
    follower.disconnected();
    follower.connected();
    assert.deepEqual(kinds(follower.listened(reply(9))), ['ready', 'read']);
  });

  test('takes events of a server without positions as they come', () => {
    const follower = new Follower();
    follower.connected();
    follower.listened({});
    assert.equal(follower.positioned, false);
    assert.deepEqual(kinds(follower.event('create', {}, undefined)), ['apply']);
  });
});

test('an outbox sends writes of one model one after the other, each building on the one before', () => {
  const outbox = new Outbox('me');
  const add = (key, rev) => outbox.add({ handle: 1, request: { method: 'update', rev }, key, done() {} });
  const [first, second, other] = [add('a', 3), add('a', 3), add('b', 1)];
  assert.deepEqual(outbox.due(() => true), [first, other]);
  outbox.settle(first, null, {}, { r: 7 });
  assert.deepEqual(outbox.due(() => true), [second]);
  assert.equal(second.request.rev, 7);
  assert.deepEqual(outbox.disconnected(), [second, other]);
  assert.deepEqual(outbox.due(() => true), [second, other]);
  assert.equal(outbox.find('me:2'), second);
  assert.equal(outbox.find('you:2'), undefined);
  outbox.public = '~me';
  assert.deepEqual([outbox.find('me:2'), outbox.find('~me:2')], [undefined, second], 'once the server has told the public part');
  outbox.public = 'me';
});

test('an outbox has a bounded number of requests under way', () => {
  const outbox = new Outbox('me');
  for (let n = 0; n < 100; n += 1) outbox.add({ handle: 1, request: { method: 'create' }, done() {} });
  const first = outbox.due(() => true);
  assert.deepEqual([first.length, outbox.due(() => true).length], [64, 0]);
  outbox.settle(first[0], null);
  assert.deepEqual(outbox.due(() => true).map((entry) => entry.n), [65]);
});

test('a replica knows what is newer, also of the deleted', () => {
  const replica = new Replica();
  assert.ok(replica.accept('a', { n: 1 }, 5));
  assert.ok(!replica.accept('a', { n: 0 }, 5) && !replica.accept('a', { n: 0 }, 4));
  assert.ok(replica.accept('a', undefined, 6));
  assert.ok(!replica.accept('a', { n: 2 }, 5));
  assert.equal(replica.truth('a'), undefined);
  for (let n = 0; n < 2000; n += 1) replica.accept(n, undefined, 1);
  assert.equal(replica.rev('a'), undefined, 'graves are bounded');
});

test('with a view any later event is the next, and the server says how far the stream has come', () => {
  const told = (offset, more = {}) => ({ v: 1, streams: { 'c:': { epoch: 'e', offset, stamp: 5, recovered: false, events: [], d: 'd', ...more } } });
  const begin = () => {
    const follower = new Follower();
    follower.connected();
    follower.listened(told(3));
    return follower;
  };
  const follower = begin();
  assert.deepEqual(follower.since, { 'c:': ['e', 3, 5, 'd'] });
  assert.equal(follower.event('create', { id: 1 }, { s: 'c:', e: 'e', o: 7, k: 9 })[0].do, 'apply');
  assert.deepEqual(follower.event('create', { id: 1 }, { s: 'c:', e: 'e', o: 6 }), []);
  assert.deepEqual(follower.acked({ s: 'c:', e: 'e', o: 9 }), []);
  assert.equal(follower.leavesContent({ s: 'c:', e: 'e', o: 9 }), true);
  assert.equal(follower.leavesContent({ s: 'c:', e: 'e', o: 9, in: false }), false);
  assert.deepEqual(follower.event('at', null, { s: 'c:', e: 'e', o: 8, k: 4, n: 2 }), [{ do: 'moved' }]);
  assert.deepEqual(follower.event('at', null, { s: 'x', e: 'e', o: 8, n: 2 }), []);
  assert.deepEqual(follower.since, { 'c:': ['e', 8, 4, 'd'] });
  assert.deepEqual(follower.overheard('c:', told(9, { recovered: true }).streams['c:']), []);
  assert.deepEqual(follower.since, { 'c:': ['e', 9, 4, 'd'] });
  assert.deepEqual(begin().overheard('c:', told(3, { d: 'other' }).streams['c:'])[0].since, { 'c:': ['e', 3, 5, 'd'] });
  // One is missing, nobody knows which.
  assert.deepEqual(follower.event('at', null, { s: 'c:', e: 'e', o: 9, n: 1 }), [{ do: 'listen', since: {}, again: true }]);
  assert.deepEqual(follower.event('at', null, { s: 'c:', e: 'e', o: 9, n: 1 }), []);
  // The view has changed: what is just being read may be of another than the position.
  const changed = begin();
  assert.deepEqual(changed.gap()[0].since, {});
  changed.complete();
  changed.disconnected();
  assert.deepEqual(changed.connected()[0].since, {});
  assert.ok(changed.listened(told(4)).some((effect) => effect.do === 'read'));
  changed.complete();
  assert.deepEqual(changed.since, { 'c:': ['e', 4, 5, 'd'] });
  // Who comes back under the same view goes on from what it missed.
  changed.disconnected();
  changed.connected();
  assert.ok(changed.listened(told(6, { recovered: true })).every((effect) => effect.do !== 'read'));
  assert.deepEqual(changed.since, { 'c:': ['e', 6, 5, 'd'] });
});
