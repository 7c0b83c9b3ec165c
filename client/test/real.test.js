/** What pages really do: parse with side effects, listeners that throw, models without ids, refusals, log-ins, searches. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach } from 'node:test';
import { contents, openPage, serveBehindProxy, startServer, test, until } from './support.js';

const { server, proxy } = await serveBehindProxy();
let reports;
beforeEach(() => {
  reports = [];
  globalThis.reportError = (err) => reports.push(err.message);
});
afterEach(() => delete globalThis.reportError);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const settled = (promise) => promise.then(() => 'done', (err) => err.name);
let channels = 0;

/** Makers of bound collections in one new channel of the board: `mine` behind the proxy, `theirs` not; and a handle. */
async function board(extra = {}, name = 'board') {
  const channel = `real ${(channels += 1)}`;
  const make = (url, more) => {
    const Backbone = openPage(url);
    const own = typeof extra === 'function' ? extra(Backbone) : extra;
    return new (Backbone.Collection.extend({ backend: { name, channel }, ...own, ...more }))().bindBackend();
  };
  const handle = openPage(server.url).io.connection.backend(name, { channel });
  const mine = (more) => make(proxy.url, more);
  const theirs = (more) => make(server.url, more);
  return { channel, handle, mine, theirs };
}

const offline = async (collection) => {
  const gone = new Promise((resolve) => collection.once('remote:offline', resolve));
  proxy.refuse = true;
  proxy.cut();
  await gone;
};

const heard = (collection, event) => new Promise((resolve) => collection.once(event, resolve));

// 1. Application code runs on records that nobody else keeps

/** The common idiom: a list moves into a collection of the model's own. */
const nesting = (Backbone) => ({
  model: Backbone.Model.extend({
    parse(record) {
      this.items ??= new Backbone.Collection();
      if (record.items) this.items.reset(record.items);
      delete record.items;
      return record;
    },
    toJSON() {
      return { ...this.attributes, items: this.items?.toJSON() };
    },
  }),
});

test('a list that parse moves into a collection of its own stays whole, whatever comes', async () => {
  const { mine, theirs } = await board(nesting);
  const [a, b] = [mine(), theirs()];
  await Promise.all([a.fetch(), b.fetch()]);
  a.create({ title: 'first', items: [{ id: 'x' }, { id: 'y' }] }, { parse: true, wait: true });
  await until(() => a.length === 1 && b.length === 1);
  const [one, other] = [a.at(0), b.at(0)];
  const ids = (model) => model.items.pluck('id').join();
  one.items.add({ id: 'z' });
  one.save({ title: 'second' });
  assert.equal(ids(one), 'x,y,z', 'a save runs no parse');
  await until(() => other.get('title') === 'second');
  await one.save({ title: 'third' });
  assert.equal(await settled(one.save({ title: 'bad' })), 'Invalid');
  assert.equal(ids(one), 'x,y,z', 'nor does a refusal');
  await until(() => other.get('title') === 'third');
  assert.equal(ids(other), 'x,y,z');
  await other.save({ title: 'fourth' });
  await until(() => one.get('title') === 'fourth');
  assert.deepEqual([ids(one), ids(other)], ['x,y,z', 'x,y,z']);
  await Promise.all([a.fetch(), b.fetch()]);
  assert.deepEqual([ids(one), ids(other)], ['x,y,z', 'x,y,z']);
});

test('parse runs once for each record, on one instance, also where it renames the id', async () => {
  const counts = { made: 0, parsed: 0 };
  const { handle, theirs } = await board((Backbone) => ({
    model: class extends Backbone.Model {
      get idAttribute() {
        return 'key';
      }

      initialize() {
        counts.made += 1;
      }

      parse({ id, ...rest }) {
        counts.parsed += 1;
        return { ...rest, key: id };
      }
    },
  }));
  const collection = theirs();
  await collection.fetch();
  const first = await handle.sync('create', { n: 1 });
  await until(() => collection.length === 1);
  assert.deepEqual(counts, { made: 1, parsed: 1 });
  await handle.sync('patch', { id: first.id, n: 2 });
  await until(() => collection.at(0).get('n') === 2);
  assert.deepEqual(counts, { made: 1, parsed: 2 });
  await collection.fetch();
  assert.deepEqual([counts.made, collection.length], [1, 1]);
  await handle.sync('delete', { id: first.id });
  await until(() => collection.length === 0);
  assert.equal(counts.made, 1);
});

test('what listeners of an event do to the record reaches nobody else', async () => {
  const { handle, theirs } = await board();
  const [spoiling, other] = [theirs(), theirs()];
  for (const one of [spoiling, other]) await one.fetch();
  spoiling.on('remote:create remote:update', (record) => Object.keys(record).forEach((key) => delete record[key]));
  const made = await handle.sync('create', { title: 'x', tags: ['a'] });
  await until(() => spoiling.length === 1 && other.length === 1);
  const model = spoiling.at(0);
  model.destroy({ refuse: true });
  await until(() => spoiling.length === 1);
  assert.deepEqual(contents(spoiling), [made]);
});

test('an older answer is never parsed on a model that shows something newer', async () => {
  const seen = [];
  const { handle, mine } = await board((Backbone) => ({
    model: Backbone.Model.extend({ parse: (record) => (seen.push(record.n), record) }),
  }));
  const collection = mine();
  await collection.fetch();
  const { id } = await handle.sync('create', { n: 1 });
  await until(() => collection.length === 1);
  proxy.deaf = true;
  const saved = collection.at(0).save({ n: 2 });
  await until(async () => (await handle.sync('read', { id })).n === 2);
  await handle.sync('patch', { id, n: 3 });
  proxy.deaf = false;
  proxy.cut();
  await settled(saved);
  await until(() => collection.at(0).get('n') === 3);
  assert.deepEqual(seen.filter((n) => n === 2 && seen.indexOf(3) >= 0 && seen.lastIndexOf(2) > seen.indexOf(3)), []);
});

// 2. User code that throws

test('a listener, a parse and a callback that throw cost nobody else an event, and are reported', async () => {
  const { handle, mine } = await board((Backbone) => ({
    model: Backbone.Model.extend({
      parse(record) {
        if (record.title === 'spoilt') throw new Error('parse');
        return record;
      },
    }),
  }));
  const collection = mine();
  await collection.fetch();
  const seen = [];
  collection.on('add', () => {
    throw new Error('listener');
  });
  collection.on('add', (model) => seen.push(model.get('title')));
  collection.on('remote:create', () => {
    throw new Error('event');
  });
  for (const title of ['a', 'spoilt', 'b']) await handle.sync('create', { title });
  await until(() => seen.length === 2);
  await offline(collection);
  for (const title of ['c', 'spoilt', 'd']) await handle.sync('create', { title });
  proxy.refuse = false;
  await heard(collection, 'remote:resumed');
  assert.deepEqual(seen, ['a', 'b', 'c', 'd']);
  collection.off('add');
  const throwing = () => {
    throw new Error('callback');
  };
  await new Promise((resolve) => {
    collection.create({ title: 'e' }, { success: throwing }).once('sync', resolve);
    pause(300).then(resolve);
  });
  assert.equal(await settled(collection.at(0).save({ title: 'bad' }, { error: throwing })), 'Invalid');
  assert.deepEqual([...new Set(reports)].sort(), ['callback', 'event', 'listener', 'parse']);
  assert.equal((await handle.sync('read')).length, 7);
});

test('a record that parse cannot take does not keep everything from being read anew', async () => {
  const own = await startServer();
  proxy.target = own.port;
  const Backbone = openPage(proxy.url);
  const collection = new (Backbone.Collection.extend({
    backend: { name: 'board', channel: 'anew' },
    model: Backbone.Model.extend({
      parse(record) {
        if (record.title === 'spoilt') throw new Error('parse');
        return record;
      },
    }),
  }))().bindBackend();
  await collection.fetch();
  collection.on('change add remove', () => {
    throw new Error('listener');
  });
  const reset = heard(collection, 'remote:reset');
  const next = await startServer();
  const handle = openPage(next.url).io.connection.backend('board', { channel: 'anew' });
  for (const title of ['a', 'spoilt', 'b']) await handle.sync('create', { title });
  proxy.target = next.port;
  proxy.cut();
  await reset;
  assert.deepEqual(collection.pluck('title').sort(), ['a', 'b']);
  assert.deepEqual([...new Set(reports)].sort(), ['listener', 'parse']);
  await handle.sync('create', { title: 'c' });
  await until(() => collection.length === 3);
  await Promise.all([own.stop(), next.stop()]);
});

test('a listener of a handle that throws costs the others nothing', async () => {
  const { handle } = await board();
  const seen = [];
  const other = openPage(server.url).io.connection.backend('board', { channel: handle.channel });
  other.on('synced', () => {
    throw new Error('first');
  });
  other.on('synced', (method) => seen.push(method));
  await new Promise((resolve) => other.once('listening', resolve));
  await handle.sync('create', { title: 'x' });
  await until(() => seen.length === 1);
  assert.deepEqual(reports, ['first']);
});

// 3. Writes that depend on an unanswered create

for (const away of [false, true]) {
  const where = away ? 'offline' : 'online';
  test(`${where}, a model that is saved again before it has an id is one record, in its last state`, async () => {
    const { handle, mine, theirs } = await board();
    const [collection, other] = [mine(), theirs()];
    await Promise.all([collection.fetch(), other.fetch()]);
    if (away) await offline(collection);
    const card = collection.create({ title: 'new' });
    card.save({ title: 'described' });
    const last = card.save({ done: true });
    proxy.refuse = false;
    await last;
    const stored = await handle.sync('read');
    assert.deepEqual(stored, [{ id: card.id, title: 'described', done: true, signed: true }]);
    await until(() => other.length === 1 && other.at(0).get('done'));
    assert.deepEqual([contents(collection), contents(other)], [stored, stored]);
  });

  test(`${where}, a model that is destroyed before it has an id exists nowhere`, async () => {
    const { handle, mine, theirs } = await board();
    const [collection, other] = [mine(), theirs()];
    await Promise.all([collection.fetch(), other.fetch()]);
    if (away) await offline(collection);
    const destroyed = [];
    const card = collection.create({ title: 'oops' });
    card.on('destroy', () => destroyed.push(card));
    const gone = new Promise((resolve) => card.destroy({ success: resolve }));
    assert.equal(collection.length, 0);
    proxy.refuse = false;
    await gone;
    assert.deepEqual(await handle.sync('read'), []);
    await until(() => other.length === 0);
    assert.deepEqual([collection.length, destroyed.length], [0, 1]);
  });
}

test('when a create is refused, the save that waited for it is the create', async () => {
  const { handle, mine } = await board();
  const collection = mine();
  await collection.fetch();
  const model = collection.create({ title: 'bad' });
  const outcome = settled(model.save({ title: 'good' }));
  assert.equal(await outcome, 'done');
  assert.deepEqual((await handle.sync('read')).map(({ title }) => title), ['good']);
  assert.deepEqual(collection.pluck('title'), ['good']);
});

test('a destroy of what could not be created has nothing to do', async () => {
  const { handle, mine } = await board();
  const collection = mine();
  await collection.fetch();
  const model = collection.create({ title: 'bad' });
  await new Promise((resolve) => model.destroy({ success: resolve }));
  assert.deepEqual([await handle.sync('read'), collection.length], [[], 0]);
});

// 4. An own create is assumed in its collection

test('a refused create is corrected, saved again and back in its collection', async () => {
  for (const options of [{}, { wait: true }]) {
    const { mine, theirs } = await board();
    const [collection, other] = [mine(), theirs()];
    await Promise.all([collection.fetch(), other.fetch()]);
    let model;
    await new Promise((resolve) => (model = collection.create({ title: 'bad' }, { ...options, error: resolve })));
    assert.equal(collection.length, 0);
    await model.save({ title: 'good' });
    assert.equal(collection.at(0), model);
    await until(() => other.length === 1);
  }
});

test('what a form saves shows in the collection that it names, and in every other of the page', async () => {
  const { channel, mine } = await board();
  const collection = mine();
  const twin = new collection.constructor([], { backend: { name: 'board', channel } }).bindBackend();
  await Promise.all([collection.fetch(), twin.fetch()]);
  const model = new collection.model({ title: 'by form' }, { collection });
  await model.save();
  assert.deepEqual([collection.at(0), collection.length], [model, 1]);
  await until(() => twin.length === 1);
});

// 5. A revision is what the instance shows

test('a model that left its collection and is saved with old content is a conflict', async () => {
  const { handle, mine } = await board();
  const collection = mine();
  const { id } = await handle.sync('create', { title: 'a' });
  await collection.fetch();
  const [model] = collection.models;
  collection.remove(model);
  await handle.sync('patch', { id, note: 'by another' });
  await pause(100);
  collection.add(model);
  assert.equal(await settled(model.save({ title: 'b' })), 'Conflict');
  assert.equal((await handle.sync('read', { id })).note, 'by another');
  assert.deepEqual([model.get('title'), model.get('note')], ['a', 'by another']);
  await model.save({ title: 'b' });
});

test('a refused drag between two lists goes back; one that is taken leaves the first', async () => {
  const { channel, handle, mine } = await board();
  await handle.sync('create', { title: 'x', column: 'todo' });
  const todo = mine();
  const doing = new todo.constructor([], { backend: { name: 'board', channel } }).bindBackend();
  await todo.fetch({ data: { column: 'todo' } });
  await doing.fetch({ data: { column: 'doing' } });
  const [card] = todo.models;
  const drag = (fields) => {
    todo.remove(card);
    doing.add(card);
    return settled(card.save({ column: 'doing', ...fields }));
  };
  assert.equal(await drag({ title: 'bad' }), 'Invalid');
  assert.deepEqual([todo.pluck('title'), doing.length], [['x'], 0]);
  assert.equal(await drag({}), 'done');
  assert.deepEqual([todo.length, doing.at(0)], [0, card]);
  await card.save({ column: 'todo' });
  await until(() => todo.length === 1 && doing.length === 0);
});

test('a destroy that is refused brings the model back into every bound collection', async () => {
  const { channel, mine } = await board();
  const all = mine();
  const picked = new all.constructor([], { backend: { name: 'board', channel } }).bindBackend();
  await all.fetch();
  await all.create({ title: 'x' }, { wait: true }).collection;
  await until(() => all.length === 1 && !all.at(0).isNew());
  const [model] = all.models;
  picked.reset();
  picked.add(model);
  assert.equal(await settled(model.destroy({ refuse: true })), 'Forbidden');
  assert.deepEqual([all.at(0), picked.at(0), model.collection], [model, model, all]);
});

// 6. One request has one form

test('a collection keeps to the query as it was sent', async () => {
  const { handle, mine } = await board();
  const collection = mine();
  const data = { list: 'home', done: undefined, due: { $lte: new Date('2027-01-31') } };
  await collection.fetch({ data });
  data.list = 'work';
  const due = '2027-01-01T00:00:00.000Z';
  for (const model of [{ list: 'work', due }, { list: 'home', due: '2028-01-01T00:00:00.000Z' }]) await handle.sync('create', model);
  await handle.sync('create', { list: 'home', due, done: true });
  await until(() => collection.length === 1);
  assert.equal(collection.at(0).get('done'), true);
});

test('a first fetch by cursor is a page, and dates are compared by value', async () => {
  const { handle, mine } = await board();
  for (let n = 0; n < 6; n += 1) await handle.sync('create', { n });
  const { next } = await handle.query({ sort: 'n', limit: 2 });
  const collection = mine({ parse: (list) => list });
  await collection.fetch({ data: { sort: 'n', limit: 2, cursor: next } });
  await handle.sync('create', { n: 99 });
  await pause(100);
  assert.deepEqual(collection.pluck('n'), [2, 3]);
  const [model] = collection.models;
  model.set('due', new Date('2027-01-01'));
  await model.save();
  model.set('due', new Date('2027-01-01'));
  const outcome = settled(model.save({ title: 'bad', due: new Date('2027-02-02') }));
  model.set({ due: new Date('2027-03-03') });
  await outcome;
  assert.equal(new Date(model.get('due')).toISOString().slice(0, 10), '2027-03-03');
});

// 8. Resources end

test('a page may visit any number of channels one after the other', async () => {
  const Backbone = openPage(server.url);
  for (let n = 0; n < 70; n += 1) {
    const room = new Backbone.Collection([], { backend: { name: 'rooms', channel: `visited ${n}` } }).bindBackend();
    await room.fetch();
    if (n === 69) {
      await Backbone.io.connection.backend('rooms', { channel: room.backend.channel }).sync('create', { n });
      await until(() => room.length === 1);
    }
    room.unbindBackend();
    await pause(0);
  }
  const again = new Backbone.Collection([], { backend: { name: 'rooms', channel: 'visited 69' } }).bindBackend();
  await again.fetch();
  assert.equal(again.length, 1);
});

test('a model that was deleted and created again is destroyed once more', async () => {
  const { handle, mine } = await board();
  const collection = mine();
  const { id } = await handle.sync('create', { title: 'x' });
  await collection.fetch();
  const [model] = collection.models;
  await handle.sync('delete', { id });
  await until(() => collection.length === 0);
  model.unset('id');
  collection.create(model);
  await until(() => !model.isNew());
  await handle.sync('delete', { id: model.id });
  await until(() => collection.length === 0);
});

// 9. The identity of an operation

test('a write under way when the page connects anew is applied once, by who made it', async () => {
  const channel = `users ${(channels += 1)}`;
  const Backbone = openPage(proxy.url);
  const handle = openPage(server.url).io.connection.backend('board', { channel });
  const collection = new Backbone.Collection([], { backend: { name: 'board', channel } }).bindBackend();
  await collection.fetch();
  const model = collection.create({ title: 'cart' }, { slow: 0.3 });
  await pause(100);
  Backbone.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, user: 'ann' });
  await until(() => !model.isNew());
  await pause(200);
  assert.deepEqual([(await handle.sync('read')).length, collection.length], [1, 1]);
});

for (const queue of ['drop', 'keep']) {
  test(`what waits when another user connects is not written by that one: ${queue}`, async () => {
    const channel = `users ${(channels += 1)}`;
    const Backbone = openPage(proxy.url, { connect: { user: 'ann' } });
    const handle = openPage(server.url).io.connection.backend('board', { channel });
    const collection = new Backbone.Collection([], { backend: { name: 'board', channel } }).bindBackend();
    await collection.fetch();
    await offline(collection);
    const dropped = [];
    collection.on('remote:dropped', (writes) => dropped.push(...writes.map(({ model }) => model.title)));
    const outcome = new Promise((resolve) => {
      collection.create({ title: 'private' }, { success: () => resolve('done'), error: (_, err) => resolve(err.name) });
    });
    proxy.refuse = false;
    const connect = (user) => Backbone.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, user, queue });
    connect('bob');
    await collection.fetch();
    assert.deepEqual(await handle.sync('read'), []);
    if (queue === 'drop') {
      assert.deepEqual([await outcome, dropped, collection.length], ['Dropped', ['private'], 0]);
      return;
    }
    connect('ann');
    assert.equal(await outcome, 'done');
    assert.equal((await handle.sync('read')).length, 1);
  });
}

test('who connects with other headers, such as a cookie, is another user where none is named', async () => {
  const channel = `users ${(channels += 1)}`;
  const options = (cookie) => ({ transports: ['websocket'], jitter: 20, extraHeaders: { Cookie: `session=${cookie}` } });
  const Backbone = openPage(proxy.url, { connect: options('ann') });
  const collection = new Backbone.Collection([], { backend: { name: 'board', channel } }).bindBackend();
  await collection.fetch();
  await offline(collection);
  let outcome;
  collection.create({ title: 'private' }, { success: () => (outcome = 'done'), error: (_, err) => (outcome = err.name) });
  proxy.refuse = false;
  Backbone.io.connect(proxy.url, options('bob'));
  assert.equal(await until(() => outcome), 'Dropped');
  await collection.fetch();
  assert.equal(collection.length, 0);
});

test('who is named is the same user with another token, and what waited is sent', async () => {
  const channel = `users ${(channels += 1)}`;
  const options = (token) => ({ transports: ['websocket'], jitter: 20, user: 'ann', auth: { token } });
  const Backbone = openPage(proxy.url, { connect: options(1) });
  const collection = new Backbone.Collection([], { backend: { name: 'board', channel } }).bindBackend();
  await collection.fetch();
  for (const [token, queue] of [[2, 'keep'], [3, 'drop']]) {
    await offline(collection);
    let outcome;
    collection.create({ title: queue }, { success: () => (outcome = 'done'), error: (_, err) => (outcome = err.name) });
    proxy.refuse = false;
    Backbone.io.connect(proxy.url, { ...options(token), queue });
    assert.equal(await until(() => outcome), 'done');
  }
  assert.deepEqual(collection.pluck('title'), ['keep', 'drop']);
});

test('a model that another user has still to save can be saved', async () => {
  const channel = `users ${(channels += 1)}`;
  const Backbone = openPage(proxy.url, { connect: { user: 'ann' } });
  const collection = new Backbone.Collection([], { backend: { name: 'board', channel } }).bindBackend();
  await collection.fetch();
  const model = collection.create({ title: 'first' });
  await heard(model, 'sync');
  await offline(collection);
  model.save({ note: "ann's" }, { patch: true });
  proxy.refuse = false;
  Backbone.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, user: 'bob', queue: 'keep' });
  assert.equal(await settled(model.save({ title: "bob's" }, { patch: true })), 'done');
});

test('who is refused costs neither what another user has kept nor what an old connection is to answer', async () => {
  const channel = `users ${(channels += 1)}`;
  const Backbone = openPage(proxy.url, { connect: { user: 'ann' } });
  const collection = new Backbone.Collection([], { backend: { name: 'board', channel } }).bindBackend();
  await collection.fetch();
  await offline(collection);
  const kept = collection.create({ title: 'kept' });
  proxy.refuse = false;
  const connect = (options) => Backbone.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, queue: 'keep', ...options });
  // More than the server takes of what a client joins with.
  connect({ user: 'bob', auth: { token: 'x'.repeat(20_000) } });
  assert.notEqual(await settled(collection.fetch()), 'done');
  assert.equal(kept.isNew() && collection.includes(kept), true);
  connect({ user: 'ann' });
  await until(() => !kept.isNew());
  const slow = collection.create({ title: 'slow' }, { slow: 0.5 });
  await pause(100);
  connect({ user: 'bob', auth: { token: 'x'.repeat(20_000) } });
  assert.notEqual(await settled(collection.fetch()), 'done');
  await until(() => !slow.isNew());
});

/** A page whose `auth` gives another user by and by, and nobody has said so: `turn(who)` is there as soon as that one may write. */
async function changing(who, connect = {}, spec = { name: 'letters', channel: `users ${(channels += 1)}` }) {
  const page = { who };
  const auth = (give) => give(page.who ? { who: page.who } : null);
  const Backbone = openPage(proxy.url, { connect: { auth, ...connect } });
  const witness = openPage(server.url, { connect: { auth: { who: 'witness' } } }).io.connection.backend('letters', spec);
  const list = new Backbone.Collection([], { backend: spec }).bindBackend();
  await list.fetch();
  const turn = async (next) => {
    if (!proxy.refuse) await offline(list);
    page.who = next;
    proxy.refuse = false;
    await list.fetch();
  };
  const before = list.length;
  const held = async () => (await witness.sync('read')).slice(before).map(({ by, text }) => [by, text]);
  return { list, turn, held, witness };
}

const created = (list, text) => new Promise((resolve) => {
  list.create({ text }, { success: () => resolve('done'), error: (_, err) => resolve(err.name) });
});

for (const [who, next] of [['ann', 'bob'], ['ann', null], [null, 'bob']]) {
  for (const queue of ['drop', 'keep']) {
    test(`what waits is not written by whom auth names next: ${who}, ${next}, ${queue}`, async () => {
      const { list, turn, held } = await changing(who, { queue });
      const dropped = [];
      list.on('remote:dropped', (writes) => dropped.push(...writes.map(({ method, model }) => [method, model.text])));
      await offline(list);
      const outcomes = ['private', 'secret'].map((text) => created(list, text));
      await turn(next);
      assert.equal(await created(list, 'then'), 'done');
      assert.deepEqual(await held(), [[next, 'then']]);
      if (queue === 'drop') {
        assert.deepEqual(await Promise.all(outcomes), ['Dropped', 'Dropped']);
        assert.deepEqual([dropped, list.pluck('text')], [[['create', 'private'], ['create', 'secret']], ['then']]);
        return;
      }
      await turn(who);
      assert.deepEqual(await Promise.all(outcomes), ['done', 'done']);
      assert.deepEqual([dropped, await held()], [[], [[next, 'then'], [who, 'private'], [who, 'secret']]]);
    });
  }
}

for (const [who, next] of [['ann', 'a guest'], ['a guest', 'ann']]) {
  test(`a user without an id is another than one with an id: ${who}, ${next}`, async () => {
    const { list, turn, held } = await changing(who);
    await offline(list);
    const outcome = created(list, 'private');
    await turn(next);
    assert.equal(await outcome, 'Dropped');
    await turn('a guest');
    await offline(list);
    const own = created(list, 'own');
    await turn('a guest');
    assert.deepEqual([await own, await held()], ['InternalError', []]);
  });
}

test('what waits for the id of a model is not written by whom auth names next either', async () => {
  const { list, turn, held } = await changing('ann');
  await offline(list);
  const model = new list.model({ text: 'draft' }, { collection: list });
  const outcomes = [settled(model.save()), settled(model.save({ text: 'final' }))];
  await turn('bob');
  assert.deepEqual([await Promise.all(outcomes), await held()], [['Dropped', 'Dropped'], []]);
  const more = [settled(model.save()), settled(model.save({ text: 'more' }))];
  assert.deepEqual([await Promise.all(more), await held()], [['done', 'done'], [['bob', 'more']]]);
});

test('what was sent as one user and has no answer is not sent as whom auth names next', async () => {
  const { list, turn, held } = await changing('ann');
  proxy.deaf = true;
  const order = created(list, 'order');
  await until(async () => (await held()).length === 1);
  await offline(list);
  proxy.deaf = false;
  await turn('bob');
  assert.deepEqual([await order, await held(), list.length], ['UnknownOutcome', [['ann', 'order']], 1]);
});

test('what waits fails as the listen does where whom auth names next may not listen, and what comes then is written', async () => {
  const { list, turn, held } = await changing('ann', {}, { name: 'letters' });
  await offline(list);
  const outcomes = ['private', 'secret'].map((text) => created(list, text));
  await turn('a writer');
  assert.deepEqual(await Promise.all(outcomes), ['Forbidden', 'Forbidden']);
  assert.equal(await created(list, 'open'), 'done');
  await turn('a writer');
  assert.equal(await created(list, 'again'), 'done');
  assert.deepEqual(await held(), [['a writer', 'open'], ['a writer', 'again']]);
  await offline(list);
  const last = created(list, 'unsigned');
  await turn('bob');
  assert.deepEqual([await last, (await held()).length], ['Dropped', 2]);
});

test('a save whose create is refused with who may not listen is not made by that one', async () => {
  const { list, turn, held } = await changing('ann', {}, { name: 'letters' });
  await offline(list);
  const model = new list.model({ text: 'draft' }, { collection: list });
  const outcomes = [settled(model.save()), settled(model.save({ text: 'final' }))];
  await turn('a writer');
  assert.deepEqual([await Promise.all(outcomes), await held()], [['Forbidden', 'Dropped'], []]);
});

test('the same user with another token goes on, and pages are not told who it is', async () => {
  const { list, turn, held, witness } = await changing('ann');
  for (const text of ['first', 'second']) {
    await offline(list);
    const outcome = created(list, text);
    await turn('ann');
    assert.equal(await outcome, 'done');
  }
  assert.deepEqual(await held(), [['ann', 'first'], ['ann', 'second']]);
  assert.deepEqual([list.backend.options, witness.options], [{ event: 'remote', version: 7 }, { event: 'remote', version: 7 }]);
});

// 10. A create is told as a create

test('a model that an update creates enters the collections of others', async () => {
  const [a, b] = [openPage(server.url), openPage(server.url)].map((Backbone) => new Backbone.Collection([], { backend: 'upserts' }).bindBackend());
  await Promise.all([a.fetch(), b.fetch()]);
  a.create({ id: 'k1', v: 1 });
  a.create({ id: 'k1', v: 2 });
  // The writer's own answer may come after the news of others.
  await until(() => [a, b].every((list) => list.length === 1 && list.at(0).get('v') === 2));
  assert.deepEqual(contents(a), contents(b));
});

test('a model with an id of its own that the server does not take leaves again', async () => {
  const { mine } = await board();
  const collection = mine();
  await collection.fetch();
  const errors = [];
  collection.on('error', (_, err) => errors.push(err.name));
  collection.create({ id: 'mine', v: 1 });
  await until(() => errors.length === 1);
  assert.deepEqual([errors, collection.length], [['NotFound'], 0]);
});

// 12. Order

test('a remote change of what the comparator looks at sorts, once for many changes', async () => {
  const { handle, mine } = await board();
  const collection = mine({ comparator: 'order' });
  const made = [];
  for (let order = 0; order < 5; order += 1) made.push(await handle.sync('create', { order }));
  await collection.fetch();
  const events = [];
  collection.on('sort update', (_, options) => events.push(options.remote));
  await offline(collection);
  for (const { id, order } of made) await handle.sync('patch', { id, order: 10 - order });
  proxy.refuse = false;
  await heard(collection, 'remote:resumed');
  assert.deepEqual(collection.pluck('order'), [6, 7, 8, 9, 10]);
  assert.deepEqual(events, [true, true], 'one sort, one update');
  await collection.fetch({ sort: false });
  const order = collection.pluck('id');
  await handle.sync('patch', { id: order[0], order: 20 });
  await until(() => collection.at(0).get('order') === 20);
  assert.deepEqual(collection.pluck('id'), order, 'unless sort is off');
});

test('what a fetch finds as the page shows it is told as ever, and is whole where a listener has taken it out meanwhile', async () => {
  const { handle, mine } = await board((Backbone) => ({
    model: function either(attributes, options) {
      return new (attributes.kind === 'x' ? Backbone.Model : Backbone.Model.extend({ other: true }))(attributes, options);
    },
  }));
  for (const t of ['a', 'b', 'c']) await handle.sync('create', { t, kind: 'x', tags: [t] });
  const collection = mine();
  await collection.fetch();
  const [first, second] = collection.models;
  const before = { ...second.attributes };
  const updates = [];
  collection.on('update', (_, { changes }) => updates.push(changes.merged.length));
  await collection.fetch();
  assert.deepEqual([updates, collection.models.slice(0, 2)], [[3], [first, second]]);
  first.set('t', 'of the page');
  first.once('change:t', () => collection.remove(second));
  await collection.fetch();
  assert.equal(first.get('t'), 'a');
  const back = collection.get(second.id);
  assert.deepEqual([back.attributes, back.other, back === second], [before, undefined, false]);
  await handle.sync('patch', { id: back.id, t: 'd' });
  await until(() => back.get('t') === 'd');
  await back.save({ t: 'e' });
  assert.equal(await settled(collection.fetch({ reset: true })), 'done');
  assert.deepEqual(collection.pluck('t'), ['a', 'e', 'c']);
});

test('a class with a set of its own is given each record whole', async () => {
  const given = [];
  const { handle, mine } = await board((Backbone) => ({
    model: Backbone.Model.extend({
      set(attributes, ...rest) {
        given.push(attributes);
        return Backbone.Model.prototype.set.call(this, attributes, ...rest);
      },
    }),
  }));
  const record = await handle.sync('create', { t: 'a' });
  const collection = mine();
  await collection.fetch();
  given.length = 0;
  await collection.fetch();
  assert.deepEqual(given.filter((attributes) => Object.keys(attributes).length > 0), [record]);
});

// 13. Collections of any size

test('a collection that is larger than the server tells at once is fetched and read anew all the same', async () => {
  const own = await startServer();
  proxy.target = own.port;
  const make = (url) => openPage(url).io.connection.backend('board', { channel: 'large' });
  const fill = async (handle, count) => {
    for (let n = 0; n < count; n += 1) await handle.sync('create', { n });
  };
  await fill(make(own.url), 70);
  const Backbone = openPage(proxy.url);
  const collection = new Backbone.Collection([], { backend: { name: 'board', channel: 'large' } }).bindBackend();
  await collection.fetch();
  assert.equal(collection.length, 70);
  const next = await startServer();
  await fill(make(next.url), 60);
  const reset = heard(collection, 'remote:reset');
  proxy.target = next.port;
  proxy.cut();
  await reset;
  assert.equal(collection.length, 60);
  assert.equal(collection.some((model) => model.get('n') >= 60), false);
  await Promise.all([own.stop(), next.stop()]);
});

// 14. Smaller

test('a fetch can be aborted, and the older of two searches is dropped', async () => {
  const { handle, mine } = await board();
  for (const t of ['apple', 'apricot', 'avocado']) await handle.sync('create', { t });
  const collection = mine();
  await collection.fetch();
  const aborted = collection.fetch({ slow: 5 });
  aborted.abort();
  assert.equal(await settled(aborted), 'Aborted');
  const older = collection.fetch({ data: { t: { $like: 'a%' } }, slow: 0.3 });
  const newer = collection.fetch({ data: { t: { $like: 'ap%' } } });
  await Promise.all([older, newer]);
  assert.deepEqual(collection.pluck('t').sort(), ['apple', 'apricot']);
  await handle.sync('create', { t: 'aubergine' });
  await pause(100);
  assert.equal(collection.length, 2);
});

test('models that came with the page follow, lose attributes and are rolled back', async () => {
  const { handle, mine } = await board((Backbone) => ({ model: Backbone.Model.extend({ defaults: { kind: 'task' } }) }));
  const collection = mine();
  const record = await handle.sync('create', { t: 'a', extra: 1 });
  collection.reset([record]);
  await new Promise((resolve) => (collection.backend.ready ? collection.backend.ready(resolve) : resolve()));
  await handle.sync('update', { id: record.id, t: 'b' });
  const [model] = collection.models;
  await until(() => model.get('t') === 'b');
  assert.deepEqual(model.attributes, { id: record.id, t: 'b', kind: 'task' });
  assert.equal(await settled(model.save({ t: 'c', title: 'bad' })), 'Invalid');
  assert.deepEqual(model.attributes, { id: record.id, t: 'b', kind: 'task' });
});

test('destroy is triggered once on a bound model', async () => {
  const { channel } = await board();
  const Backbone = openPage(server.url);
  for (const options of [{}, { wait: true }]) {
    const model = new (Backbone.Model.extend({ backend: { name: 'board', channel } }))({ title: 'x' }).bindBackend();
    await model.save();
    let count = 0;
    model.on('destroy', () => (count += 1));
    await model.destroy(options);
    await pause(50);
    assert.equal(count, 1);
  }
});
