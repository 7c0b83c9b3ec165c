/** Collections with a query of their own: what the server tells them, and what they hold when the query changes. */
import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { closePages, filledChannel, openPage, startProxy, startServer, test, until } from './support.js';
import { seeded } from './world.js';

const SCHEDULES = Number(process.env.BBIO_SCHEDULES ?? 10);

let server;
let proxy;
before(async () => {
  server = await startServer();
  proxy = await startProxy(server.port);
});
after(async () => {
  await proxy.stop();
  await server.stop();
});
afterEach(closePages);

const filled = (models, name = 'live') => filledChannel(server.url, name, models);

const fetched = (collection, options = {}) =>
  new Promise((resolve, reject) => {
    collection.fetch({ ...options, success: resolve, error: (_, err) => reject(err) });
  });

/** A bound collection with a query of its own; `told` counts what its page is told. */
function bound({ name, channel }, query, Backbone = openPage(server.url)) {
  const collection = new Backbone.Collection([], { backend: { name, channel, query } }).bindBackend();
  const told = [];
  collection.backend.socket.on('synced', (method) => told.push(method));
  const events = [];
  collection.on('add remove destroy remote:reset error', (model, _, options) => events.push(options?.add ? 'add' : 'heard'));
  return Object.assign(collection, { told, handle: Backbone.io.connection.backend(name, { channel }) });
}

const numbers = (count) => Array.from({ length: count }, (_, n) => ({ n, done: n % 2 === 1 }));
const ns = (collection) => collection.pluck('n').sort((a, b) => a - b);
const becomes = (collection, expected) =>
  until(() => JSON.stringify(ns(collection)) === JSON.stringify(expected), JSON.stringify(expected)).catch((err) => assert.deepEqual(ns(collection), expected, err.message));
const resets = (collection) => new Promise((resolve) => collection.once('remote:reset', resolve));

test('the server tells a collection with a query of that alone; what begins to match comes in, what no longer does is gone', async () => {
  const there = await filled(numbers(4));
  const open = bound(there, { done: false });
  await fetched(open);
  assert.deepEqual(ns(open), [0, 2]);
  const { handle, made } = there;
  await handle.sync('create', { n: 5, done: true });
  await handle.sync('patch', { id: made[3].id, n: 7 });
  await handle.sync('patch', { id: made[3].id, done: false });
  await becomes(open, [0, 2, 7]);
  await handle.sync('patch', { id: made[0].id, done: true });
  await becomes(open, [2, 7]);
  assert.deepEqual(open.told, ['create', 'delete']);
});

for (const name of ['live', 'shelf']) {
  test(`${name}: setQuery reads once, and what has come and gone is told as after a lost history`, async () => {
    const there = await filled(numbers(6), name);
    const list = bound(there, { done: false });
    await fetched(list);
    const heard = [];
    list.on('add remove destroy', (model, _, options) => heard.push([options.add ? 'add' : 'remove', model.get('n')]));
    const reads = [];
    const { request } = list.handle.session;
    list.handle.session.request = (fields) => (reads.push(fields.request.options.data), request.call(list.handle.session, fields));
    assert.equal(list.setQuery({ n: { $gt: 3 } }), list);
    assert.deepEqual(list.backend.query, { n: { $gt: 3 } });
    const { added, removed } = await resets(list);
    assert.deepEqual([added, removed].map((models) => models.map((model) => model.get('n'))), [[5], [0, 2]]);
    assert.deepEqual(heard.sort(), [['add', 5], ['remove', 0], ['remove', 2]]);
    assert.deepEqual([ns(list), reads], [[4, 5], [{ n: { $gt: 3 } }]]);
    await there.handle.sync('create', { n: 9, done: true });
    await there.handle.sync('create', { n: 1, done: false });
    await there.handle.sync('create', { n: 8 });
    await becomes(list, [4, 5, 8, 9]);
    const whole = resets(list);
    list.setQuery();
    await whole;
    assert.deepEqual(ns(list), [0, 1, 1, 2, 3, 4, 5, 8, 9]);
  });

  test(`${name}: a query that cannot be read is told, and all stays as it was, and current`, async () => {
    const there = await filled(numbers(3), name);
    const list = bound(there, { done: false });
    await fetched(list);
    const error = new Promise((resolve) => list.once('error', (_, err) => resolve(err.name)));
    list.setQuery({ n: { $near: 1 } });
    assert.equal(await error, 'BadRequest');
    assert.deepEqual([ns(list), list.backend.query], [[0, 2], { done: false }]);
    await there.handle.sync('create', { n: 9, done: true });
    await there.handle.sync('create', { n: 4, done: false });
    await becomes(list, [0, 2, 4]);
    await fetched(list);
    assert.deepEqual(ns(list), [0, 2, 4]);
  });

  test(`${name}: of queries that follow each other the last one holds, also when one between cannot be read`, async () => {
    const there = await filled(numbers(6), name);
    const list = bound(there, { done: false });
    await fetched(list);
    list.setQuery({ done: true }).setQuery({ n: { $near: 1 } }).setQuery({ n: { $lt: 2 } });
    await becomes(list, [0, 1]);
    await there.handle.sync('create', { n: -1 });
    await becomes(list, [-1, 0, 1]);
    assert.deepEqual(list.backend.query, { n: { $lt: 2 } });
    list.setQuery({ n: 3 }).setQuery({ n: { $near: 1 } });
    await new Promise((resolve) => list.once('error', resolve));
    assert.deepEqual([ns(list), list.backend.query], [[-1, 0, 1], { n: { $lt: 2 } }]);
  });

  test(`${name}: a query with an order and a limit is a live first page, whose query changes`, async () => {
    const there = await filled(numbers(8), name);
    const list = bound(there, { done: false, sort: '-n', limit: 2 });
    await fetched(list);
    assert.deepEqual(list.pluck('n'), [6, 4]);
    await there.handle.sync('create', { n: 5, done: false });
    await becomes(list, [5, 6]);
    list.setQuery({ done: true, sort: 'n', limit: 3 });
    await resets(list);
    assert.deepEqual(list.pluck('n'), [1, 3, 5]);
    await there.handle.sync('delete', there.made[3]);
    await becomes(list, [1, 5, 7]);
  });

  test(`${name}: several collections of a channel each hold what they ask for`, async () => {
    const there = await filled(numbers(4), name);
    const Backbone = openPage(server.url);
    const open = bound(there, { done: false }, Backbone);
    await fetched(open);
    const done = bound(there, { done: true }, Backbone);
    await fetched(done);
    const all = await done.handle.collection({ sort: 'n' }).ready();
    await there.handle.sync('create', { n: 10, done: true });
    await there.handle.sync('patch', { id: there.made[0].id, done: true });
    await Promise.all([becomes(open, [2]), becomes(done, [0, 1, 3, 10])]);
    await until(() => all.models.length === 5);
    done.unbindBackend();
    all.close();
    open.setQuery({ n: 10 });
    await becomes(open, [10]);
    const { length } = open.told;
    await there.handle.sync('create', { n: 11 });
    await there.handle.sync('patch', { id: there.made[1].id, n: 10 });
    await becomes(open, [10, 10]);
    assert.equal(open.told.length - length, name === 'live' ? 1 : 2);
  });
}

test('a query may be a function, is joined with what is fetched, and is for the same field only once', async () => {
  const there = await filled(numbers(6));
  const Backbone = openPage(server.url);
  const Open = Backbone.Collection.extend({ done: false, backend: () => ({ ...there, query() { return { done: this.done }; } }) });
  const open = new Open().bindBackend();
  await fetched(open);
  assert.deepEqual(ns(open), [0, 2, 4]);
  await fetched(open, { data: { n: { $gt: 1 }, sort: '-n', limit: 1 } });
  assert.deepEqual(ns(open), [4]);
  assert.throws(() => open.fetch({ data: { done: true } }), /own query has a condition for done/);
  open.setQuery(function () { return { done: !this.done }; });
  await becomes(open, [5]);
  const unbound = new Open();
  await fetched(unbound.setQuery({ n: 3 }));
  assert.deepEqual(ns(unbound), [3]);
  assert.throws(() => new Backbone.Collection().setQuery({}), /no backend/);
});

for (const name of ['dates', 'live-dates']) {
  test(`${name}: what only the server can compare, times in other zones, is as the server says`, async () => {
    const at = (hour) => ({ at: `2026-01-31T${hour}:00:00.000000Z` });
    const there = await filled([at('06'), at('09'), at('10'), at('11'), at('12')], name);
    const hours = (models) => models.map((model) => (model.at ?? model.get('at')).slice(11, 13));
    const query = { at: { $lt: '2026-01-31T13:00:00+02:00' }, sort: '-at', limit: 2 };
    const list = bound(there, query);
    await fetched(list);
    const core = await openPage(server.url).io.connection.backend(name, there).collection(query).ready();
    const become = (expected) => until(() => [list.models, core.models].every((models) => `${hours(models)}` === expected), expected);
    await become('10,09');
    const reads = [];
    const { request } = list.handle.session;
    list.handle.session.request = (fields) => (reads.push(fields), request.call(list.handle.session, fields));
    await there.handle.sync('create', at('08'));
    const half = await there.handle.sync('create', at('07'));
    await there.handle.sync('patch', { id: half.id, ...at('10') });
    await become('10,10');
    assert.equal(reads.length > 0, name === 'dates');
    await there.handle.sync('delete', there.made[2]);
    await become('10,09');
    await there.handle.sync('patch', { id: half.id, ...at('12') });
    await become('09,08');
  });
}

test('what the page itself writes out of its query leaves the collection, and is not destroyed', async () => {
  const there = await filled(numbers(4));
  const open = bound(there, { done: false });
  await fetched(open);
  const destroyed = [];
  open.on('destroy', (model) => destroyed.push(model));
  const model = open.findWhere({ n: 0 });
  await model.save({ done: true });
  assert.deepEqual([ns(open), model.attributes.n, destroyed], [[2], 0, []]);
  await model.save({ done: false });
  await becomes(open, [0, 2]);
  const other = open.create({ n: 5, done: true });
  await until(() => !other.isNew() && !open.includes(other));
  assert.deepEqual([ns(open), destroyed], [[0, 2], []]);
});

test('a record that the page gives away leaves its collection, and the model keeps what it was', async () => {
  const { name, channel } = await filled([], 'mine');
  const page = (who) => openPage(server.url, { connect: { auth: { who } } });
  const [ann, bob] = ['ann', 'bob'].map((who) => bound({ name, channel }, undefined, page(who)));
  await Promise.all([fetched(ann), fetched(bob)]);
  const model = ann.create({ owner: 'ann', n: 1 });
  await until(() => !model.isNew());
  await model.save({ owner: 'bob' });
  await becomes(bob, [1]);
  assert.deepEqual([ns(ann), model.get('n'), model.get('owner')], [[], 1, 'bob']);
});

test('a listen that is lost is sent again, and a reconnect asks for what it was told before', async () => {
  const there = await filled(numbers(4));
  const list = bound(there, { done: false }, openPage(proxy.url));
  await fetched(list);
  let resumed = 0;
  list.on('remote:resumed', () => (resumed += 1));
  proxy.cut();
  await there.handle.sync('create', { n: 8, done: false });
  await becomes(list, [0, 2, 8]);
  await until(() => resumed === 1);
  list.setQuery({ done: true });
  proxy.cut();
  await becomes(list, [1, 3]);
  await there.handle.sync('create', { n: 9, done: true });
  await becomes(list, [1, 3, 9]);
});

const QUERIES = [{ done: false }, { done: true }, { n: { $lt: 5 } }, { done: false, n: { $gte: 3 } }, { $or: [{ n: 1 }, { done: true }] }, {}, { n: { $near: 1 } }];
const PAGES = [{}, {}, { sort: 'n', limit: 3 }, { sort: ['done', '-n'], limit: 2 }];

/** A schedule: collections whose queries change, while everybody writes and connections break. */
async function run(seed) {
  const random = seeded(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const record = () => ({ n: Math.floor(random() * 8), done: random() < 0.5 });
  const there = await filled(numbers(6), pick(['live', 'live', 'shelf']));
  const Backbone = openPage(proxy.url);
  const lists = [0, 1, 2].map((n) => bound(there, pick(QUERIES.slice(0, 6)), n < 2 ? Backbone : openPage(proxy.url)));
  for (const list of lists) list.on('error', () => {});
  await Promise.all(lists.map((list) => fetched(list)));
  for (let n = 0; n < 25; n += 1) {
    const kind = random();
    const list = pick(lists);
    const model = list.length > 0 ? pick(list.models) : undefined;
    const ignore = { error() {} };
    if (kind < 0.25) list.create(record(), ignore);
    else if (kind < 0.4) model?.save(record(), ignore);
    else if (kind < 0.5) model?.destroy(ignore);
    else if (kind < 0.65) await there.handle.sync('create', record());
    else if (kind < 0.7) proxy.cut();
    else if (kind < 0.85) list.setQuery({ ...pick(QUERIES), ...pick(PAGES) });
    else await there.handle.sync('patch', { id: pick(await there.handle.sync('read'))?.id, ...record() }).catch(() => {});
  }
  for (const list of lists) {
    const query = () => list.backend.query ?? {};
    const inOrder = (models) => {
      const texts = models.map(({ id, n, done }) => `${id} ${n} ${done}`);
      return 'limit' in query() ? texts : texts.sort();
    };
    const shown = () => inOrder(list.toJSON());
    const wanted = async () => inOrder((await there.handle.query(query())).models);
    // What cannot be read is taken back by then.
    await until(() => !('$near' in Object(query().n)), `schedule ${seed}: the query is taken back`);
    await until(async () => `${shown()}` === `${await wanted()}`).catch(async (err) => {
      assert.deepEqual(shown(), await wanted(), `schedule ${seed}: ${JSON.stringify(query())} of ${there.name}: ${err.message}`);
    });
  }
}

test(`collections hold what they ask for after any of ${SCHEDULES} schedules`, { timeout: SCHEDULES * 20_000 }, async () => {
  const first = Number(process.env.BBIO_SEED ?? 1);
  for (let seed = first; seed < first + SCHEDULES; seed += 1) {
    await run(seed);
    closePages();
  }
});
