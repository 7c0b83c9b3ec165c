/** Pages as they were written for backbone.io 0.4.2, against the real server: its README's ways, one by one. */
import assert from 'node:assert/strict';
import { describe } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import vm from 'node:vm';
import * as socketio from 'socket.io-client';
import { attach } from '../src/backbone/attach.js';
import { loadBackbone, loadJQuery, openPage, serveBehindProxy, test, until } from './support.js';

const { server, proxy } = await serveBehindProxy();

let rooms = 0;
const room = () => ({ name: 'rooms', channel: `original-${(rooms += 1)}` });
const flavours = [{ version: '1.0', $: true }, { version: '1.1', $: true }, { version: '1.6' }];

/** Somebody else, who has listened. */
async function other(spec) {
  const handle = openPage(server.url).io.connection.backend(spec.name, spec);
  await handle.sync('read');
  return handle;
}

/** A collection kept by hand, the first way of the original's README. */
function byHand(Backbone, spec, prefix = 'remote') {
  const Kept = Backbone.Collection.extend({
    backend: spec,
    initialize() {
      this.heard = [];
      this.bind(prefix, (method, model) => this.heard.push([method, model.t]));
      this.bind(`${prefix}:create`, (model) => this.add(model));
      this.bind(`${prefix}:update`, (model) => this.get(model.id).set(model));
      this.bind(`${prefix}:delete`, (model) => this.remove(this.get(model.id)));
    },
  });
  return new Kept();
}

const ready = (collection) => new Promise((resolve) => collection.backend.ready(resolve));

for (const { version, $ } of flavours) {
  describe(`a page with Backbone ${version}${$ ? ' and jQuery' : ''}`, () => {
    const page = (url = server.url) => openPage(url, { version, $: $ && loadJQuery() });

    test('handlers bound by hand hear what others write, without bindBackend()', async () => {
      const spec = room();
      const [mine, them] = [byHand(page(), spec), await other(spec)];
      await ready(mine);
      const { id } = await them.sync('create', { t: 1 });
      await until(() => mine.length === 1);
      await them.sync('update', { id, t: 2 });
      await until(() => mine.get(id).get('t') === 2);
      await them.sync('patch', { id, t: 3 });
      await until(() => mine.get(id).get('t') === 3);
      await them.sync('delete', { id });
      await until(() => mine.length === 0);
      assert.deepEqual(mine.heard, [['create', 1], ['update', 2], ['update', 3], ['delete', 3]]);
    });

    test('the writer is not told of its own writes, others of the page are', async () => {
      const Backbone = page();
      const spec = room();
      const [mine, twin] = [byHand(Backbone, spec), byHand(Backbone, spec)];
      await Promise.all([ready(mine), ready(twin)]);
      const model = mine.create({ t: 1 });
      await until(() => twin.length === 1);
      model.save({ t: 2 });
      await until(() => twin.at(0).get('t') === 2);
      model.destroy();
      await until(() => twin.length === 0);
      assert.deepEqual(mine.heard, []);
      assert.deepEqual(twin.heard, [['create', 1], ['update', 2], ['delete', 2]]);
    });

    test('handlers bound by hand hear what was written while the connection was lost, once', async () => {
      const spec = room();
      const [mine, them] = [byHand(page(proxy.url), spec), await other(spec)];
      const events = [];
      mine.on('all', (name) => /:(offline|online|resumed)$/.test(name) && events.push(name));
      await ready(mine);
      proxy.refuse = true;
      proxy.cut();
      await until(() => events.includes('remote:offline'));
      await them.sync('create', { t: 1 });
      proxy.refuse = false;
      await until(() => events.includes('remote:resumed'));
      await them.sync('create', { t: 2 });
      await until(() => mine.length === 2);
      assert.deepEqual(mine.heard, [['create', 1], ['create', 2]]);
      assert.deepEqual(events, ['remote:offline', 'remote:online', 'remote:resumed']);
    });

    test('bindBackend() is the shortcut, and keeps those handlers working', async () => {
      const spec = room();
      const mine = byHand(page(), spec).bindBackend();
      const them = await other(spec);
      await mine.fetch();
      const { id } = await them.sync('create', { t: 1 });
      await until(() => mine.heard.length === 1);
      await them.sync('delete', { id });
      await until(() => mine.heard.length === 2);
      assert.deepEqual([mine.heard, mine.length], [[['create', 1], ['delete', 1]], 0]);
    });

    test('an error handler shows res.error.message', async () => {
      const shown = [];
      const Message = page().Model.extend({
        backend: 'todos',
        initialize() {
          this.on('error', (model, res) => shown.push(res.error.message, res.error.name));
        },
      });
      new Message().save({ title: 'bad' });
      await until(() => shown.length);
      assert.deepEqual(shown, ['no such title', 'Invalid']);
    });

    test('what fetch returns has done and fail where Backbone has jQuery', async () => {
      const promise = byHand(page(), room()).fetch();
      assert.equal(typeof promise.done, $ ? 'function' : 'undefined');
      assert.deepEqual(await promise, []);
    });
  });
}

test('a model with a backend is told of its own id, and none of the others', async () => {
  const spec = room();
  const them = await other(spec);
  const { id } = await them.sync('create', { t: 1 });
  const Backbone = openPage(server.url);
  const One = Backbone.Model.extend({ backend: spec });
  const [mine, stranger, created] = [new One({ id }), new One({ id: 'elsewhere' }), new One()];
  const heard = [];
  for (const model of [mine, stranger, created]) model.on('remote', (method, raw) => heard.push([model.id, method, raw.t]));
  await ready(mine);
  await them.sync('patch', { id, t: 2 });
  await until(() => heard.length === 1);
  mine.save({ t: 3 });
  await created.save({ t: 4 });
  await them.sync('patch', { id: created.id, t: 5 });
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [[id, 'update', 2], [created.id, 'update', 5]]);
});

test('of a collection and its models that name one backend the collection is told', async () => {
  const spec = room();
  const Backbone = openPage(server.url);
  const Item = Backbone.Model.extend({ backend: spec });
  const mine = new (Backbone.Collection.extend({ model: Item, backend: spec }))([{ id: 1 }]);
  const heard = [];
  mine.on('remote:update', () => heard.push('collection'));
  mine.at(0).on('remote:update', () => heard.push('model'));
  await mine.at(0).fetch().then(assert.fail, (err) => assert.equal(err.name, 'NotFound'));
  const added = new Item({ id: 2 });
  added.on('remote:update', () => heard.push('added'));
  mine.add(added);
  await emit(Backbone, spec, 'updated', { id: 1 });
  await emit(Backbone, spec, 'updated', { id: 2 });
  await until(() => heard.length > 1);
  assert.deepEqual(heard, ['collection', 'collection']);
  mine.remove(added);
  await emit(Backbone, spec, 'updated', { id: 2 });
  await until(() => heard.length > 3);
  assert.deepEqual(heard.slice(2).sort(), ['added', 'collection']);
});

const emit = (Backbone, { name, channel }, what, model) =>
  Backbone.io.connection.backend('control').sync('create', { backend: name, what, model, channel });

test('a class made before the client was there, and one with a class field, are told from their first sync on', async () => {
  const spec = room();
  const Backbone = loadBackbone();
  const Early = Backbone.Collection.extend({ backend: spec });
  const page = attach(Backbone, () => socketio.io).connect(server.url, { transports: ['websocket'] });
  class Fields extends Backbone.Collection {
    backend = spec;
  }
  const kept = [new Early(), new Fields()];
  const heard = [];
  for (const collection of kept) collection.on('remote:create', () => heard.push(kept.indexOf(collection)));
  for (const collection of kept) await collection.fetch();
  await emit(Backbone, spec, 'created', { id: 1 });
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [0, 1]);
  assert.equal(new Early([], { backend: 'todos' }).backend, spec, 'its constructor knows no such option');
  page.disconnect();
});

test('a collection whose backend is a function is told from the first sync of one of its models on', async () => {
  const spec = room();
  const Backbone = openPage(server.url);
  const mine = new (Backbone.Collection.extend({ backend: () => spec }))([{ id: 1 }]);
  const heard = [];
  mine.on('remote', (method, { id }) => heard.push([method, id]));
  await mine.at(0).fetch().then(assert.fail, (err) => assert.equal(err.name, 'NotFound'));
  for (const [what, id] of [['created', 2], ['updated', 1]]) await emit(Backbone, spec, what, { id });
  await until(() => heard.length > 1);
  assert.deepEqual(heard, [['create', 2], ['update', 1]]);
});

test('handlers by hand are told once of each change, whatever another of them does to the record, or throws', () => {
  const Backbone = openPage();
  const [spoiling, other] = [1, 2].map(() => new Backbone.Collection([], { backend: 'rooms' }));
  spoiling.on('backend backend:create', (...args) => {
    delete args.at(-1).t;
    throw new Error('by hand');
  });
  const [heard, thrown, counts] = [[], [], { backend: 0, 'backend:create': 0 }];
  for (const event of Object.keys(counts)) spoiling.on(event, () => (counts[event] += 1));
  globalThis.reportError = (err) => thrown.push(err.message);
  other.on('all', (event, ...args) => heard.push([event, args.at(-1)]));
  const handle = Backbone.io.connection.backend('rooms');
  const meta = { s: 'c:', e: 'e', o: 1 };
  handle.notified([{ method: 'create', raw: { id: 1, t: 1 } }]);
  handle.wrote({ method: 'create', model: {} }, { id: 2, t: 2 }, meta, []);
  handle.notified([{ method: 'create', raw: { id: 2, t: 2 }, meta, own: true }]);
  delete globalThis.reportError;
  assert.deepEqual([counts, thrown], [{ backend: 2, 'backend:create': 2 }, Array(4).fill('by hand')]);
  const [one, two] = [{ id: 1, t: 1 }, { id: 2, t: 2 }];
  assert.deepEqual(heard, [['backend', one], ['backend:create', one], ['backend', two], ['backend:create', two]]);
});

test('handlers by hand hear of the connection, and of what must be read anew, but not whether anybody listens', async () => {
  const Backbone = openPage();
  const heard = [];
  new Backbone.Collection([], { backend: 'rooms' }).on('all', (event) => heard.push(event));
  const handle = Backbone.io.connection.backend('rooms');
  for (const event of ['listening', 'error', 'offline', 'online', 'resumed']) handle.tell(event);
  await handle.reread(false);
  assert.deepEqual(heard, ['backend:offline', 'backend:online', 'backend:resumed', 'backend:reset']);
});

test('a collection that takes another backend is told of that one alone', async () => {
  const [one, two] = [room(), room()];
  const Backbone = openPage(server.url);
  const mine = new Backbone.Collection([], { backend: one });
  const heard = [];
  mine.on('remote:create', (raw) => heard.push(raw.id));
  mine.backend = two;
  await mine.fetch();
  await emit(Backbone, one, 'created', { id: 1 });
  await emit(Backbone, two, 'created', { id: 2 });
  await until(() => heard.length);
  assert.deepEqual(heard, [2]);
  mine.unbindBackend();
  await mine.fetch();
  await emit(Backbone, two, 'created', { id: 3 });
  await mine.fetch();
  assert.deepEqual(heard, [2], 'unbindBackend ends that too');
});

test('what is made and forgotten is told nothing, and kept by nobody', async () => {
  setFlagsFromString('--expose-gc');
  const gc = vm.runInNewContext('gc');
  const spec = room();
  const Backbone = openPage(server.url);
  const handle = Backbone.io.connection.backend(spec.name, spec);
  const Item = Backbone.Model.extend({ backend: spec });
  for (let n = 0; n < 1000; n += 1) new Item({ id: n });
  assert.equal(handle.mirrors.size, 1000);
  await until(() => (gc(), handle.mirrors.size === 0));
});

test('collection.backend reads as its name, and has what the original had', async () => {
  const Backbone = openPage(server.url);
  const Rooms = Backbone.Collection.extend({ backend: { name: 'rooms', channel: 'described' } });
  const Plain = Backbone.Collection.extend({ backend: 'todos', initialize() { this.early = this.backend.name; } });
  const [mine, plain] = [new Rooms(), new Plain()];
  assert.equal(`${mine.backend}`, 'rooms');
  assert.ok(plain.backend == 'todos'); // eslint-disable-line eqeqeq
  assert.deepEqual([mine.backend.name, mine.backend.channel, plain.backend.channel, plain.early], ['rooms', 'described', '', 'todos']);
  assert.equal(mine.backend.options, undefined);
  const order = [];
  await new Promise((resolve) => mine.backend.ready(() => resolve(order.push('ready'))));
  mine.backend.ready(() => order.push('at once'));
  assert.deepEqual(order, ['ready', 'at once']);
  assert.deepEqual(mine.backend.options, { event: 'remote', version: 7 }, 'what the server tells its clients');
  assert.equal(new Rooms().backend, mine.backend);
  assert.equal(new Backbone.Model({}, { backend: mine.backend }).backend, mine.backend);
  assert.deepEqual(JSON.parse(JSON.stringify(mine.backend)), { name: 'rooms', channel: 'described', persist: false });
  assert.equal(mine.backend.socket, Backbone.io.connection.of('rooms'));
});

test('a backend that says who it is anew each time goes on doing so', async () => {
  const Backbone = openPage(server.url);
  class Getter extends Backbone.Collection {
    get backend() {
      return { name: 'echo', channel: this.room ?? '' };
    }
  }
  const mine = new Getter();
  assert.equal((await mine.fetch()).channel, null);
  mine.room = 'kitchen';
  assert.equal((await mine.fetch()).channel, 'kitchen');
  assert.equal(new Getter([], { backend: 'todos' }).backend.name, 'todos');
});

test('a function is called on the collection, for its models too', async () => {
  const Backbone = openPage(server.url);
  const Cards = Backbone.Collection.extend({
    backend() {
      return { name: 'echo', channel: this.column };
    },
    initialize(models, { column }) {
      this.column = column;
      this.bindBackend();
    },
  });
  const cards = new Cards([{ id: 1 }], { column: 'doing' });
  assert.equal((await cards.at(0).save()).channel, 'doing');
  assert.equal((await cards.at(0).fetch()).channel, 'doing');
  const Card = Backbone.Model.extend({ backend() { return { name: 'echo', channel: this.get('column') }; } });
  assert.equal((await new Card({ id: 2, column: 'done' }).save()).channel, 'done');
});

test('a channel that is named but not there is an error, never the default channel', () => {
  const Backbone = openPage(server.url);
  for (const channel of [undefined, null]) {
    const spec = { name: 'rooms', channel };
    const says = /channel of "rooms" must be a string.*leave it out for the default channel/;
    assert.throws(() => new Backbone.Collection([], { backend: spec }), says);
    assert.throws(() => new (Backbone.Collection.extend({ backend: () => spec }))().fetch(), says);
    assert.throws(() => new (Backbone.Model.extend({ backend: () => spec }))().save(), says);
    assert.throws(() => Backbone.io.connection.backend('rooms', { channel }), says);
  }
  assert.throws(() => Backbone.io.connection.backend('rooms', { channel: 5 }), /must be a string, not 5$/);
  assert.equal(Backbone.io.connection.backend('rooms', { channel: '' }), Backbone.io.connection.backend('rooms'));
});

describe('what connect() returns', () => {
  const options = { transports: ['websocket'], reconnectionDelay: 20, reconnectionDelayMax: 40, jitter: 20 };

  test('tells of the connection, and of a lost one', async () => {
    const Backbone = openPage();
    const socket = Backbone.io.connect(proxy.url, options);
    const told = [];
    for (const event of ['connect', 'disconnect', 'reconnect']) socket.on(event, () => told.push(event));
    socket.once('connect', () => told.push('once'));
    const never = () => told.push('never');
    assert.equal(socket.on('connect', never).once('connect', never).off('connect', never), socket);
    assert.deepEqual([socket.connected, socket.id], [false, undefined]);
    await until(() => told.length === 2);
    assert.deepEqual([told, socket.connected, typeof socket.id], [['connect', 'once'], true, 'string']);
    proxy.cut();
    await until(() => told.length === 5);
    assert.deepEqual(told.slice(2).sort(), ['connect', 'disconnect', 'reconnect']);
    told.length = 0;
    assert.equal(socket.disconnect(), socket);
    assert.deepEqual([told, socket.connected], [['disconnect'], false]);
    socket.connect(proxy.url, options);
    await until(() => told.includes('connect'));
    socket.close();
  });

  test('emits events of the application, with acks, and hears them', async () => {
    const Backbone = openPage(server.url);
    const socket = Backbone.io.connect(server.url, options);
    assert.equal(await new Promise((resolve) => socket.emit('add', 2, 3, resolve)), 5);
    const heard = [];
    const chat = socket.of('/chat');
    assert.equal(socket.of('chat'), chat);
    const rooms = new Backbone.Collection([], { backend: 'rooms' }).bindBackend();
    chat.on('heard', (text) => heard.push(['chat', text]));
    rooms.backend.socket.on('heard', (text) => heard.push(['rooms', text]));
    await ready(rooms);
    await until(() => chat.connected && chat.id);
    rooms.backend.socket.emit('shout', 'milk');
    await until(() => heard.length === 2);
    assert.deepEqual(heard.sort(), [['chat', 'MILK'], ['rooms', 'MILK']]);

    // The same objects serve the connection that comes next, and the one before is gone.
    socket.connect(server.url, options);
    await until(() => chat.connected && rooms.backend.socket.connected);
    chat.emit('shout', 'tea');
    await until(() => heard.length === 4);
    await new Promise((resolve) => socket.emit('add', resolve));
    assert.deepEqual(heard.slice(2).sort(), [['chat', 'TEA'], ['rooms', 'TEA']]);
  });

  test('a namespace may be used before a backend takes it', async () => {
    const connection = openPage(server.url).io.connection;
    const heard = [];
    connection.of('rooms').on('heard', (text) => heard.push(text));
    await until(() => connection.of('rooms').connected);
    const taken = connection.backend('rooms', { channel: 'taken' });
    assert.deepEqual(await taken.sync('read'), []);
    const read = taken.sync('read', {}, { timeout: 5000 });
    connection.connect(server.url, options);
    assert.deepEqual(await read, [], 'sent again over the next connection');
    await until(() => connection.of('rooms').connected);
    connection.of('rooms').emit('shout', 'x');
    await until(() => heard.length === 1);
  });

  test('a listener of the page that throws keeps nothing from the models', async () => {
    const Backbone = openPage(server.url);
    const spec = room();
    const mine = new Backbone.Collection([], { backend: spec }).bindBackend();
    await ready(mine);
    const thrown = [];
    globalThis.reportError = (err) => thrown.push(err.message);
    mine.backend.socket.on('synced', () => {
      throw new Error('of the page');
    });
    await emit(Backbone, spec, 'created', { id: 1 });
    await until(() => mine.length === 1 && thrown.length === 1);
    delete globalThis.reportError;
    assert.deepEqual(thrown, ['of the page']);
  });

  test('without connect() an emit says what is missing', () => {
    assert.throws(() => openPage().io.connection.emit('x'), /call connect\(\) first/);
  });
});

test('a model of a collection without a backend is told from its own first sync on', async () => {
  const spec = room();
  const Backbone = openPage(server.url);
  const handle = Backbone.io.connection.backend(spec.name, spec);
  const mine = new (Backbone.Collection.extend({ model: Backbone.Model.extend({ backend: spec }) }))([{ id: 1 }, { id: 2 }]);
  assert.equal(handle.mirrors.size, 0);
  let heard = 0;
  mine.on('remote:update', () => (heard += 1));
  await mine.at(0).fetch().catch(() => {});
  await emit(Backbone, spec, 'updated', { id: 2 });
  await emit(Backbone, spec, 'updated', { id: 1 });
  await until(() => heard === 1);
  assert.equal(handle.mirrors.size, 1);
});

test('a script that is loaded twice does nothing the second time', async () => {
  const Backbone = openPage(server.url);
  const { io, sync } = Backbone;
  assert.equal(attach(Backbone, () => undefined), io);
  assert.equal(Backbone.sync, sync);
  assert.deepEqual(await new Backbone.Collection([], { backend: room() }).fetch(), []);
});

test('Backbone.IO is Backbone.io, and goes with it', () => {
  const Backbone = openPage();
  assert.equal(Backbone.IO, Backbone.io);
  Backbone.io.noConflict();
  assert.deepEqual(['io' in Backbone, 'IO' in Backbone], [false, false]);
});

test('a page that forgot connect() is told in the console, once, and no other is', async () => {
  const warned = [];
  const { warn } = console;
  console.warn = (text) => warned.push(text);
  try {
    const forgetful = openPage();
    for (const backend of ['todos', 'rooms']) new forgetful.Collection([], { backend });
    const late = openPage();
    new late.Collection([], { backend: 'todos' });
    late.io.connect(server.url, { transports: ['websocket'] });
    // Timers of one length end in the order they were set in.
    await new Promise((resolve) => setTimeout(resolve, 1000));
  } finally {
    console.warn = warn;
  }
  assert.equal(warned.length, 1);
  assert.match(warned[0], /Backbone\.io\.connect\(\)/);
});

test('an older Backbone is refused where it is loaded', () => {
  for (const VERSION of ['0.9.10', '0.5.3']) {
    const old = { VERSION, Model() {}, Collection() {} };
    assert.throws(() => attach(old, () => socketio.io), new RegExp(`needs Backbone 1\\.0 or newer, and this is Backbone ${VERSION}`));
    assert.equal('io' in old, false);
  }
  for (const none of [undefined, {}]) assert.throws(() => attach(none, () => socketio.io), /this is not Backbone/);
});

test('an error is its own error, and JSON has it once', async () => {
  const err = await openPage(server.url).io.connection.backend('todos').sync('read', { id: 'none' }).catch((err) => err);
  assert.equal(err.error, err);
  assert.deepEqual(Object.keys(JSON.parse(JSON.stringify(err))).sort(), ['code', 'message', 'name']);
});

test('persist may be asked for after the backend', async () => {
  const kept = new Map();
  globalThis.sessionStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  try {
    const Backbone = openPage(server.url);
    const spec = room();
    const them = await other(spec);
    Backbone.io.connection.backend(spec.name, spec);
    const mine = new Backbone.Collection([], { backend: { ...spec, persist: true } }).bindBackend();
    await mine.fetch();
    await them.sync('create', { t: 1 });
    await until(() => mine.length === 1);
    const key = `bbio:rooms:${spec.channel}`;
    const [, offset] = JSON.parse(kept.get(key))[`c:${spec.channel}`];
    assert.equal(offset, 1);

    // The next page goes on from there, though its handle is asked for without it first.
    const next = openPage();
    next.io.connection.backend(spec.name, spec);
    const events = [];
    const again = new next.Collection([], { backend: { ...spec, persist: true } }).bindBackend();
    again.on('all', (event) => events.push(event));
    await them.sync('create', { t: 2 });
    next.io.connect(server.url, { transports: ['websocket'] });
    await until(() => events.includes('remote:resumed'));
    assert.deepEqual(again.pluck('t'), [2]);

    // One that is connected already keeps its positions from then on.
    const late = openPage(server.url);
    const plain = late.io.connection.backend('todos');
    await plain.sync('read');
    assert.equal(kept.has('bbio:todos:'), false);
    late.io.connection.backend('todos', { persist: true });
    assert.equal(kept.has('bbio:todos:'), true);
  } finally {
    delete globalThis.sessionStorage;
  }
});

describe('ids', () => {
  test('of a route, which are texts, are those of the server, which may be numbers', async () => {
    const Backbone = openPage(server.url);
    const spec = room();
    const One = Backbone.Model.extend({ backend: spec });
    const [bound, alone] = [new One({ id: '5' }).bindBackend(), new One({ id: '5' })];
    let heard = 0;
    alone.on('remote:update', () => (heard += 1));
    await bound.fetch().catch((err) => assert.equal(err.name, 'NotFound'));
    await emit(Backbone, spec, 'updated', { id: 5, t: 1 });
    await until(() => bound.get('t') === 1 && heard === 1);
    assert.equal(bound.id, 5);
  });

  test('past 2^53 are warned of once, and nothing is written by them', async () => {
    const warned = [];
    const { warn } = console;
    console.warn = (text) => warned.push(text);
    try {
      const Backbone = openPage(server.url);
      const big = new Backbone.Collection([], { backend: 'big' }).bindBackend();
      await big.fetch();
      await big.fetch();
      assert.equal(big.length, 1, 'two of them look like one');
      assert.equal(warned.length, 1);
      assert.match(warned[0], /past 2\^53.*as texts/);
      for (const write of [(model) => model.save({ t: 2 }), (model) => model.save({ t: 2 }, { patch: true }), (model) => model.destroy()]) {
        const err = await write(big.at(0)).then(assert.fail, (err) => err);
        assert.deepEqual([err.name, err.code], ['BadRequest', 400]);
        assert.deepEqual(big.pluck('t'), ['b']);
      }
      const stored = await Backbone.io.connection.backend('big').sync('read', {}, { data: { t: 'a' } });
      assert.equal(stored.length, 1);
    } finally {
      console.warn = warn;
    }
  });
});
