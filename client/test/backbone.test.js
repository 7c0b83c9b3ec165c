/** The Backbone adapter, against the real server: Backbone's contracts in every version, and what comes from others. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe } from 'node:test';
import { closePages, contents, loadJQuery, openPage, startServer, test, until, versions } from './support.js';

let server;
before(async () => (server = await startServer()));
after(() => server.stop());
afterEach(closePages);

const flavours = [
  ...versions.map((version) => ({ version })),
  { version: '1.6', underscore: 'lodash' },
  { version: '1.3', underscore: 'lodash' },
  { version: '1.1', jquery: true },
  { version: '1.6', jquery: true },
];

/** `collection.fetch` and the like, as a promise. */
const settled = (target, verb, ...args) =>
  new Promise((resolve, reject) => {
    const options = typeof args.at(-1) === 'object' && args.length > (verb === 'save' ? 1 : 0) ? args.pop() : {};
    target[verb](...args, { ...options, success: () => resolve(target), error: (_, err) => reject(err) });
  });

const emit = (Backbone, model) => Backbone.io.connection.backend('control').sync('create', model);

for (const { version, underscore = 'underscore', jquery } of flavours) {
  const name = `Backbone ${version} with ${underscore}${jquery ? ' and jQuery' : ''}`;
  describe(name, () => {
    const page = () => openPage(server.url, { version, underscore, $: jquery && loadJQuery() });
    const bound = async (Backbone, spec = 'todos', extra = {}) => {
      const collection = new (Backbone.Collection.extend({ backend: spec, ...extra }))().bindBackend();
      await settled(collection, 'fetch');
      return collection;
    };

    test('creates, updates, patches and deletes, each seen by another page', async () => {
      const [mine, theirs] = [await bound(page()), await bound(page())];
      const model = mine.create({ title: 'milk', done: false });
      await until(() => model.id !== undefined);
      const seen = await until(() => theirs.get(model.id));
      assert.deepEqual(seen.attributes, { id: model.id, title: 'milk', done: false });

      model.save({ title: 'oat milk' });
      await until(() => seen.get('title') === 'oat milk');
      model.save({ done: true }, { patch: true });
      await until(() => seen.get('done') === true);
      assert.equal(seen.get('title'), 'oat milk');
      model.destroy();
      await until(() => !theirs.get(seen.id));
      assert.equal(mine.get(seen.id), undefined);
    });

    test('ids and fields called like what every object has are ids and fields', async () => {
      const spec = { name: 'upserts', channel: `properties ${name}` };
      const [mine, theirs] = [await bound(page(), spec), await bound(page(), spec)];
      const ids = ['constructor', 'toString', 'hasOwnProperty', 'valueOf', '__defineGetter__', '__proto__', 'prototype'];
      for (const id of ids) assert.equal(theirs.get(id), undefined);
      const writer = page().io.connection.backend(spec.name, spec);
      for (const id of ids) {
        await writer.sync('update', { id, constructor: `of ${id}`, hasOwnProperty: 1, toString: null });
        for (const collection of [mine, theirs]) {
          const model = await until(() => collection.get(id));
          // Older Backbones make no model with such a field, but change it.
          if (version > '1.3') assert.equal(model.get('constructor'), `of ${id}`);
        }
      }
      assert.equal((await bound(page(), spec)).length, ids.length);
      await settled(theirs, 'fetch', { reset: true });
      for (const id of ids) {
        theirs.get(id).save({ hasOwnProperty: 2 });
        await until(() => mine.get(id).get('hasOwnProperty') === 2);
        await writer.sync('delete', { id });
        await until(() => mine.get(id) === undefined && theirs.get(id) === undefined);
      }
      assert.deepEqual([mine.length, theirs.length], [0, 0]);
    });

    test('triggers request and sync, and returns a promise that says the same as the callbacks', async () => {
      const Backbone = page();
      const model = new (Backbone.Model.extend({ backend: 'echo' }))({ id: 7, title: 'x' });
      const events = [];
      model.on('request', (target, promise) => events.push('request', target === model, typeof promise.then));
      model.on('sync', (target, response) => events.push('sync', target === model, response.method));
      const result = await model.fetch({ data: { page: 2 } });
      assert.deepEqual(events, ['request', true, 'function', 'sync', true, 'read']);
      assert.equal(result.method, 'read');
      assert.deepEqual(result.options.data, { page: 2 });
    });

    test('gives the error object to callback, event and promise', async () => {
      const Backbone = page();
      const model = new (Backbone.Model.extend({ backend: 'todos' }))();
      const told = [];
      model.on('error', (target, err) => told.push(target === model, err.name));
      const promise = model.save({ title: 'bad' }, { error: (target, err, options) => told.push(target === model, err.fields.title, typeof options) });
      const err = await new Promise((resolve) => promise.then(assert.fail, resolve));
      assert.equal(err.code, 422);
      assert.deepEqual(told, [true, 'is bad', 'object', true, 'Invalid']);
    });

    test('puts what the server says of each field where validate would have put it', async () => {
      const collection = await bound(page());
      const told = [];
      collection.on('invalid', (model, fields, options) => told.push('invalid', model, fields, options.validationError === fields, options.mine));
      collection.on('remove', () => told.push('remove'));
      const model = collection.create({ title: 'bad' }, { mine: 1, error: () => told.push('error') });
      await until(() => told.includes('error'));
      assert.deepEqual(told, ['invalid', model, { title: 'is bad' }, true, 1, 'remove', 'error']);
      assert.deepEqual(model.validationError, { title: 'is bad' });

      collection.add(model);
      await settled(model, 'save', { title: 'good' });
      assert.equal(model.validationError, null);
      assert.equal(told.length, 7);
      model.validationError = 'mine';
      await settled(model, 'save', { title: 'better' });
      assert.equal(model.validationError, 'mine');
      await settled(model, 'destroy');
    });

    test('honours wait, validate, parse, attrs and idAttribute', async () => {
      const notes = (Backbone) => {
        const model = Backbone.Model.extend({
          idAttribute: '_id',
          parse: (raw) => (raw && raw.text ? { ...raw, text: raw.text.toUpperCase() } : raw),
          validate: ({ text }) => (text === '' ? 'empty' : undefined),
        });
        return bound(Backbone, { name: 'notes', channel: name }, { model });
      };
      const [mine, theirs] = [await notes(page()), await notes(page())];

      const note = mine.create({ text: 'a' }, { wait: true });
      assert.equal(mine.length, 0);
      await until(() => mine.length === 1);
      assert.equal(note.get('text'), 'A');
      const seen = await until(() => theirs.get(note.id));
      assert.equal(seen.get('text'), 'A', 'remote models are parsed');
      assert.equal(note.save({ text: '' }, { validate: true }), false);

      await note.save(null, { attrs: { text: 'b' }, wait: true });
      await until(() => seen.get('text') === 'B');
      assert.equal(theirs.length, 1);
      await settled(note, 'destroy', { wait: true });
      await until(() => theirs.length === 0);
    });

    test('leaves what has no backend to Backbone', async () => {
      const Backbone = page();
      const asked = [];
      Backbone.ajax = (options) => (asked.push(options.type, options.url), 'xhr');
      if (!Backbone.$) Backbone.$ = { ajax: Backbone.ajax };
      const model = new (Backbone.Model.extend({ urlRoot: '/rest' }))({ id: 3 });
      assert.equal(model.fetch(), 'xhr');
      model.set('backend', 'todos');
      assert.equal(model.save(), 'xhr');
      assert.deepEqual(asked, ['GET', '/rest/3', 'PUT', '/rest/3']);
    });

    test('noConflict leaves nothing behind', () => {
      const Backbone = openPage(undefined, { version, underscore, $: jquery && loadJQuery() });
      const api = Backbone.io;
      assert.equal(api.noConflict(), api);
      assert.equal('io' in Backbone, false);
      assert.equal(new Backbone.Collection().bindBackend, undefined);
      assert.equal(new Backbone.Model().unbindBackend, undefined);
      assert.equal(Backbone.Model.prototype.constructor, Backbone.Model);
      assert.notEqual(Backbone.sync, undefined);
    });
  });
}

test('a collection is fetched without being uploaded, and functions never travel', async () => {
  const Backbone = openPage(server.url);
  const collection = new (Backbone.Collection.extend({ backend: 'echo' }))([{ id: 5, secret: 'x' }]);
  const result = await collection.fetch({ data: { deep: { fn() {}, ok: 1 }, list: [() => 1, 2] }, beforeSend() {}, view: new Backbone.Model() });
  assert.deepEqual(result.model, {});
  assert.deepEqual(result.options.data, { deep: { ok: 1 }, list: [null, 2] });
  for (const absent of ['beforeSend', 'view', 'success', 'error', 'collection', 'xhr']) assert.equal(absent in result.options, false, absent);
});

test('models fall back to their collection, and the backend may come from constructor options', async () => {
  const Backbone = openPage(server.url);
  const collection = new Backbone.Collection([{ id: 1 }], { backend: { name: 'echo', channel: 'a' } });
  assert.equal((await collection.at(0).save()).channel, 'a');
  const alone = new Backbone.Model({ id: 2 }, { backend: 'echo' });
  assert.equal((await alone.save()).channel, null);
  const Sub = class extends Backbone.Model {};
  assert.equal((await new Sub({ id: 3 }, { backend: 'echo' }).save()).model.id, 3);
  assert.ok(alone instanceof Backbone.Model && new Sub() instanceof Backbone.Model);
});

test('two channels in one page keep apart over one socket', async () => {
  const [one, two] = [openPage(server.url), openPage(server.url)];
  const Room = (Backbone, channel) => new Backbone.Collection([], { backend: { name: 'rooms', channel } }).bindBackend();
  const [mineA, mineB, theirsA, theirsB] = [Room(one, 'a'), Room(one, 'b'), Room(two, 'a'), Room(two, 'b')];
  await Promise.all([mineA, mineB, theirsA, theirsB].map((room) => settled(room, 'fetch')));
  mineA.create({ text: 'to a' });
  mineB.create({ text: 'to b' });
  await until(() => theirsA.length === 1 && theirsB.length === 1);
  assert.deepEqual(theirsA.pluck('text'), ['to a']);
  assert.deepEqual(theirsB.pluck('text'), ['to b']);
  assert.deepEqual(mineA.pluck('text'), ['to a']);
});

test('two collections of one channel in one page follow each other', async () => {
  const Backbone = openPage(server.url);
  const [left, right] = [1, 2].map(() => new Backbone.Collection([], { backend: { name: 'rooms', channel: 'twins' } }).bindBackend());
  const heard = [];
  left.on('remote:create', () => heard.push('left'));
  right.on('remote:create', () => heard.push('right'));
  const model = left.create({ text: 'x' });
  await until(() => model.id !== undefined && right.get(model.id));
  assert.deepEqual(heard, ['right'], 'the maker of a write is not notified of it');
  assert.equal(left.length, 1);
});

test('notifications trigger events with the prefix of the server, after the change', async () => {
  const Backbone = openPage(server.url);
  const collection = new Backbone.Collection([], { backend: { name: 'rooms', channel: 'events' } }).bindBackend();
  await settled(collection, 'fetch');
  const heard = [];
  collection.on('remote', (method, model) => heard.push([method, model.id, collection.length]));
  collection.on('remote:create remote:update remote:delete', (model) => heard.push(model.text));
  const say = (what, model) => emit(Backbone, { backend: 'rooms', what, model, channel: 'events' });
  await say('created', { id: 'e1', text: 'one' });
  await say('updated', { id: 'unknown', text: 'not added' });
  await say('updated', { id: 'e1', text: 'two' });
  await say('deleted', { id: 'e1', text: 'gone' });
  await until(() => heard.length === 8);
  // Of a delete the id alone is told: the rest is what the page knew.
  assert.deepEqual(heard, [
    ['create', 'e1', 1], 'one', ['update', 'unknown', 1], 'not added', ['update', 'e1', 1], 'two', ['delete', 'e1', 0], 'two',
  ]);
});

test('a server-side emit without a channel reaches every channel', async () => {
  const Backbone = openPage(server.url);
  const rooms = ['x', 'y', ''].map((channel) => new Backbone.Collection([], { backend: { name: 'rooms', channel } }).bindBackend());
  await Promise.all(rooms.map((room) => settled(room, 'fetch')));
  await emit(Backbone, { backend: 'rooms', what: 'created', model: { id: 'all' } });
  await until(() => rooms.every((room) => room.get('all')));
  assert.deepEqual(rooms.map((room) => room.length), [1, 1, 1]);
});

test('a bound model follows its own id only, and hears of its deletion', async () => {
  const Backbone = openPage(server.url);
  const other = openPage(server.url);
  const maker = new other.Collection([], { backend: 'todos' });
  const [a, b] = [maker.create({ title: 'a' }), maker.create({ title: 'b' })];
  await until(() => a.id !== undefined && b.id !== undefined);
  const Todo = Backbone.Model.extend({ backend: 'todos' });
  const mine = new Todo({ id: a.id }).bindBackend();
  await settled(mine, 'fetch');
  let destroyed = 0;
  mine.on('destroy', () => (destroyed += 1));
  b.save({ title: 'changed b' });
  a.save({ title: 'changed a' });
  await until(() => mine.get('title') === 'changed a');
  a.destroy();
  await until(() => destroyed === 1);
  await settled(b, 'destroy');
});

test('after unbindBackend nothing changes any more', async () => {
  const Backbone = openPage(server.url);
  const [bound, unbound] = [1, 2].map(() => new Backbone.Collection([], { backend: { name: 'rooms', channel: 'unbound' } }).bindBackend());
  await settled(bound, 'fetch');
  unbound.unbindBackend();
  bound.bindBackend();
  await emit(Backbone, { backend: 'rooms', what: 'created', model: { id: 1 }, channel: 'unbound' });
  await until(() => bound.length === 1);
  assert.equal(unbound.length, 0);
  assert.throws(() => new Backbone.Collection().bindBackend(), /no backend; set one/);
});

test('connect may come last, and syncs wait for it', async () => {
  const Backbone = openPage(undefined);
  const collection = new Backbone.Collection([], { backend: 'echo' });
  const fetched = collection.fetch();
  Backbone.io.connect(server.url, { transports: ['websocket'] });
  assert.equal((await fetched).method, 'read');
});

test('without connect a sync times out with an error that names it', async () => {
  const Backbone = openPage(undefined);
  const model = new Backbone.Model({}, { backend: 'todos' });
  const err = await model.fetch({ timeout: 20 }).then(assert.fail, (err) => err);
  assert.equal(err.name, 'Timeout');
  assert.match(err.message, /Backbone\.io\.connect\(\)/);
});

test('an answer that does not come in time is a Timeout', async () => {
  const Backbone = openPage(server.url);
  const model = new Backbone.Model({}, { backend: 'slow' });
  const err = await model.fetch({ timeout: 300, seconds: 5 }).then(assert.fail, (err) => err);
  assert.deepEqual([err.name, err.code], ['Timeout', 408]);
});

test('an unknown backend fails with its name, and does not wait for the deadline', async () => {
  const Backbone = openPage(server.url);
  const err = await new Backbone.Model({}, { backend: 'nowhere' }).fetch().then(assert.fail, (err) => err);
  assert.equal(err.name, 'Unavailable');
  assert.match(err.message, /"nowhere"/);
});

test('a refused listen is an error event, and the sync says why', async () => {
  const Backbone = openPage(server.url);
  const collection = new Backbone.Collection([], { backend: 'closed' }).bindBackend();
  const names = [];
  collection.on('error', (target, err) => names.push(target === collection, err.name));
  const err = await collection.fetch().then(assert.fail, (err) => err);
  assert.equal(err.name, 'Forbidden');
  assert.deepEqual(names, [true, 'Forbidden', true, 'Forbidden']);
});

test('a collection follows its channel when the server lets it in, and no more when that ends', async () => {
  const Backbone = openPage(server.url);
  const open = (channel) => new Backbone.Collection([], { backend: { name: 'ruled', channel } }).bindBackend();
  const [lobby, vip] = [open('lobby'), open('vip')];
  const told = [];
  vip.on('error', (_, err) => told.push(err.message));
  lobby.on('remote:joined', (channel) => told.push(channel));
  await until(() => told.length === 1);
  const move = (options) => new Promise((resolve, reject) => lobby.create({}, { ...options, wait: true, success: resolve, error: (_, err) => reject(err) }));
  for (const round of [1, 2]) {
    await move({ join: 'vip' });
    await until(() => new Promise((resolve) => vip.create({ round }, { wait: true, success: () => resolve(true), error: () => resolve(false) })));
    await move({ leave: 'vip' });
    await until(() => told.length === 1 + round);
  }
  assert.deepEqual(told, ['not allowed in this channel', ...Array(2).fill('the server has ended listening to this channel')]);
  await move({ join: 'other' });
  await until(() => told.at(-1) === 'other');
});

test('a backend that is busy when it is joined is joined again', async () => {
  const Backbone = openPage(server.url, { connect: { auth: { busy: String(Math.random()) } } });
  const made = await new Backbone.Model({ n: 1 }, { backend: { name: 'ruled', channel: 'lobby' } }).save();
  assert.equal(made.n, 1);
});

test('a failure that only a callback sees is no unhandled rejection', async () => {
  const Backbone = openPage(server.url);
  const unhandled = [];
  const listener = (err) => unhandled.push(err);
  process.on('unhandledRejection', listener);
  const model = new Backbone.Model({ id: 'none' }, { backend: 'todos' });
  const err = await new Promise((resolve) => model.fetch({ error: (_, err) => resolve(err) }));
  await new Promise((resolve) => setImmediate(resolve));
  process.off('unhandledRejection', listener);
  assert.equal(err.name, 'NotFound');
  assert.deepEqual(unhandled, []);
});

test('a collection with a function for its model takes remote models', async () => {
  const Backbone = openPage(server.url);
  const Big = Backbone.Model.extend({ big: true });
  function model(attributes, options) {
    return new Big(attributes, options);
  }
  const collection = new (Backbone.Collection.extend({ model, backend: { name: 'rooms', channel: 'poly' } }))().bindBackend();
  await settled(collection, 'fetch');
  await emit(Backbone, { backend: 'rooms', what: 'created', model: { id: 1, n: 1 }, channel: 'poly' });
  await emit(Backbone, { backend: 'rooms', what: 'updated', model: { id: 1, n: 2 }, channel: 'poly' });
  await until(() => collection.get(1)?.get('n') === 2);
  assert.equal(collection.get(1).big, true);
});

test('globals are as they were', () => {
  for (const name of ['Backbone', 'bbio', 'io', 'window', 'document']) assert.equal(name in globalThis, false, name);
});

test('collections come out equal', async () => {
  const [mine, theirs] = [openPage(server.url), openPage(server.url)].map(
    (Backbone) => new Backbone.Collection([], { backend: { name: 'rooms', channel: 'equal' } }).bindBackend(),
  );
  await Promise.all([settled(mine, 'fetch'), settled(theirs, 'fetch')]);
  for (let n = 0; n < 20; n += 1) (n % 2 ? mine : theirs).create({ n });
  await until(() => mine.length === 20 && theirs.length === 20 && ![...mine.models, ...theirs.models].some((m) => m.isNew()));
  assert.deepEqual(contents(mine), contents(theirs));
});
