/** Live windows: the first page of a query stays the first page while others write; the server's own page is the judge. */
import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { Window } from '../src/core/window.js';
import { closePages, filledChannel, openPage, startProxy, startServer, test, until, versions } from './support.js';
import { seeded } from './world.js';

const SCHEDULES = Number(process.env.BBIO_SCHEDULES ?? 12);

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

const shelf = (models) => filledChannel(server.url, 'shelf', models);

const fetched = (collection, data, options = {}) =>
  new Promise((resolve, reject) => {
    collection.fetch({ data, ...options, success: resolve, error: (_, err) => reject(err) });
  });

/** A collection of a page of its own that shows a query of a channel. */
async function opened(channel, data, { url = server.url, ...how } = {}) {
  const Backbone = openPage(url, how);
  const collection = new Backbone.Collection([], { backend: { name: 'shelf', channel } }).bindBackend();
  await fetched(collection, data);
  return Object.assign(collection, { reads: readsOf(collection, Backbone), handle: Backbone.io.connection.backend('shelf', { channel }) });
}

/** The reads that a collection's page sends from now on. */
function readsOf({ backend: { name, channel } }, Backbone) {
  const { session } = Backbone.io.connection.backend(name, { channel });
  const reads = [];
  const { request } = session;
  session.request = (fields) => {
    if (fields.request.method === 'read') reads.push(fields.request.options.data);
    return request.call(session, fields);
  };
  return reads;
}

const numbers = (count) => Array.from({ length: count }, (_, n) => ({ n }));
const ns = (collection) => collection.pluck('n');
const becomes = (collection, expected) => until(() => JSON.stringify(ns(collection)) === JSON.stringify(expected), `${JSON.stringify(expected)}`)
  .catch((err) => assert.deepEqual(ns(collection), expected, err.message));

test('what enters a window comes in at its place and pushes the last out; nothing is read for it', async () => {
  const { channel, handle } = await shelf([0, 10, 20, 30].map((n) => ({ n })));
  const list = await opened(channel, { sort: 'n', limit: 3 });
  const heard = [];
  list.on('add remove', (model, _, options) => heard.push([options.add ? 'add' : 'remove', model.get('n'), options.index ?? options.at]));
  await handle.sync('create', { n: 15 });
  await becomes(list, [0, 10, 15]);
  await handle.sync('create', { n: 99 });
  await handle.sync('create', { n: -1 });
  await becomes(list, [-1, 0, 10]);
  assert.deepEqual(heard, [['remove', 20, 2], ['add', 15, 2], ['remove', 15, 2], ['add', -1, 0]]);
  assert.deepEqual(list.reads, []);
});

test('what leaves a window is replaced by the next one, which is read once for many', async () => {
  const { channel, handle, made } = await shelf(numbers(20));
  const list = await opened(channel, { n: { $lt: 90 }, sort: 'n', limit: 5 });
  const { page } = list;
  const emit = openPage(server.url).io.connection.backend('shelf', { channel });
  await Promise.all([0, 2, 3].map((n) => emit.sync(n ? 'delete' : 'patch', n ? made[n] : { id: made[0].id, n: 91 })));
  await becomes(list, [1, 4, 5, 6, 7]);
  assert.ok(list.reads.length <= 3, JSON.stringify(list.reads));
  assert.equal(list.reads[0].$cursor, page.next);
  const count = list.reads.length;
  // What was read beyond is known by now.
  await handle.sync('delete', made[1]);
  await becomes(list, [4, 5, 6, 7, 8]);
  assert.equal(list.reads.length, count);
});

test('a model that is moved changes its place, or leaves for the one that was pushed out', async () => {
  const { channel, handle, made } = await shelf(numbers(4));
  const list = await opened(channel, { sort: '-n', limit: 3 });
  const sorted = [];
  list.on('sort', () => sorted.push(ns(list)));
  await handle.sync('patch', { id: made[1].id, n: 2.5 });
  await becomes(list, [3, 2.5, 2]);
  await handle.sync('patch', { id: made[0].id, n: 9 });
  await becomes(list, [9, 3, 2.5]);
  await handle.sync('patch', { id: made[0].id, n: -9 });
  await becomes(list, [3, 2.5, 2]);
  assert.deepEqual(sorted, [[3, 2.5, 2]]);
});

test('a window is as long as its limit again after it was shorter, and what comes beyond it is known to be there', async () => {
  const { channel, handle, made } = await shelf(numbers(2));
  const list = await opened(channel, { sort: 'n', limit: 3 });
  assert.equal(list.page.next, null);
  const more = [];
  for (const n of [7, 8, 9]) more.push(await handle.sync('create', { n }));
  await becomes(list, [0, 1, 7]);
  await until(() => list.page.next);
  await fetched(list, { sort: 'n', limit: 3, cursor: list.page.next }, { remove: false });
  assert.deepEqual(ns(list), [0, 1, 7, 8, 9]);
  for (const model of [made[0], made[1], ...more]) await handle.sync('delete', model);
  await becomes(list, []);
});

test('a list that was continued by its cursor goes on as one window', async () => {
  const { channel, handle, made } = await shelf(numbers(9));
  const data = { sort: 'n', limit: 2 };
  const list = await opened(channel, data);
  const more = () => fetched(list, { ...data, cursor: list.page.next }, { remove: false });
  // What is pushed out meanwhile is not missing later.
  await handle.sync('create', { n: 0.5 });
  await becomes(list, [0, 0.5]);
  await more();
  await becomes(list, [0, 0.5, 1, 2]);
  await handle.sync('delete', made[1]);
  await becomes(list, [0, 0.5, 2, 3]);
  await more();
  await becomes(list, [0, 0.5, 2, 3, 4, 5]);
  const many = [];
  for (let n = 10; n < 80; n += 1) many.push(await handle.sync('create', { n: n / 100 }));
  await becomes(list, [0, 0.1, 0.11, 0.12, 0.13, 0.14]);
  await more();
  await becomes(list, [0, ...Array.from({ length: 7 }, (_, n) => (10 + n) / 100)]);
  for (const model of many) await handle.sync('delete', model);
  await becomes(list, [0, 0.5, 2, 3, 4, 5, 6, 7]);
});

test('a page that is not the first stays what was read, and so does a first page beside other models', async () => {
  const { channel, handle } = await shelf(numbers(6));
  const second = await opened(channel, { sort: 'n', limit: 2, offset: 2 });
  const beside = await opened(channel, { sort: '-n', limit: 2 });
  await fetched(beside, { sort: 'n', limit: 2 }, { remove: false });
  await handle.sync('create', { n: -1 });
  const last = await opened(channel, { sort: 'n', limit: 1 });
  await becomes(last, [-1]);
  assert.deepEqual([ns(second), ns(beside)], [[2, 3], [5, 4, 0, 1]]);
});

test('the page itself: what it creates, saves and destroys has the place that the server gives it', async () => {
  const { channel } = await shelf([]);
  const list = await opened(channel, { sort: 'n', limit: 3 });
  const done = (call) => new Promise((success) => call({ success: () => success() }));
  for (const n of [5, 3, 9, 1]) await done((options) => list.create({ n }, options));
  assert.deepEqual(ns(list), [1, 3, 5]);
  await done((options) => list.at(0).save({ n: 7 }, options));
  assert.deepEqual(ns(list), [3, 5, 7]);
  await done((options) => list.at(1).destroy(options));
  await becomes(list, [3, 7, 9]);
  await done((options) => list.at(0).save({ n: 30 }, options));
  await becomes(list, [7, 9, 30]);
});

test('numbers past 2^53, which JavaScript rounds, are put where the server says', async () => {
  const { channel, handle } = await shelf([{ n: 1 }, { n: 2 ** 53 }]);
  const list = await opened(channel, { sort: '-n', limit: 2 });
  assert.deepEqual(list.reads, []);
  await handle.sync('create', { n: 2 ** 53 + 2 });
  await becomes(list, [2 ** 53 + 2, 2 ** 53]);
  assert.equal(list.reads.length, 1);
});

test('what cannot be read is told, and what can be read later is read then; meanwhile the window is shorter', async () => {
  const { channel, handle, made } = await shelf(numbers(6));
  const list = await opened(channel, { sort: 'n', limit: 2 });
  const { session } = list.handle;
  const { request } = session;
  const failing = (error) => {
    session.request = (fields) => void setTimeout(() => ((session.request = request), fields.done(error)));
  };
  failing({ name: 'Unavailable', code: 503 });
  await handle.sync('delete', made[0]);
  await becomes(list, [1]);
  await becomes(list, [1, 2]);
  failing({ name: 'Forbidden', code: 403 });
  const refused = new Promise((resolve) => list.once('error', (_, err) => resolve(err.name)));
  await handle.sync('delete', made[1]);
  await handle.sync('delete', made[2]);
  assert.equal(await refused, 'Forbidden');
  assert.deepEqual(ns(list), [3]);
});

for (const version of versions) {
  test(`Backbone ${version}: a window in order, and one in the order of a comparator`, async () => {
    const { channel, handle } = await shelf(numbers(4));
    const list = await opened(channel, { sort: 'n', limit: 3 }, { version });
    const sorted = await opened(channel, { sort: 'n', limit: 3 }, { version });
    sorted.comparator = (model) => -model.get('n');
    const made = await handle.sync('create', { n: 0.5 });
    await becomes(list, [0, 0.5, 1]);
    await until(() => sorted.get(made.id));
    await handle.sync('delete', made);
    await handle.sync('create', { n: -1 });
    await becomes(list, [-1, 0, 1]);
    await until(() => !sorted.get(made.id) && sorted.length === 3);
    assert.deepEqual([...ns(sorted)].sort(), [-1, 0, 1]);
  });
}

test('without Backbone, a live collection is a list in order, which says what changes', async () => {
  const { channel, handle, made } = await shelf(numbers(4));
  const page = openPage(server.url).io.connection.backend('shelf', { channel });
  const first = page.collection({ n: { $lt: 90 }, sort: '-n', limit: 2, count: true });
  const all = page.collection({ sort: 'n' });
  assert.equal(await first.ready(), first);
  await all.ready();
  const shown = (collection) => collection.models.map(({ n }) => n);
  assert.deepEqual([shown(first), first.total, first.isMore, shown(all), all.isMore], [[3, 2], 4, true, [0, 1, 2, 3], false]);
  const heard = [];
  first.on('change', ({ added, changed, removed }) => heard.push([added, changed, removed].map((models) => models.map(({ n }) => n))));
  await handle.sync('patch', { id: made[0].id, n: 2.5 });
  await until(() => heard.length === 1);
  await handle.sync('delete', made[3]);
  await until(() => shown(first)[1] === 2);
  await page.sync('patch', { id: made[0].id, n: 2.7 });
  assert.deepEqual(heard[0], [[2.5], [], [2]]);
  assert.deepEqual(heard.slice(1).filter(([, , removed]) => removed.length > 0), [[[2], [], [3]]]);
  assert.deepEqual(heard.at(-1), [[], [2.7], []]);
  await until(() => shown(all).length === 3);
  assert.deepEqual(shown(all), [1, 2, 2.7]);
  first.more(1);
  await until(() => shown(first).length === 3);
  first.setQuery({ n: { $lt: 2.5 }, sort: 'n', limit: 2 });
  assert.deepEqual(shown(first), [2.7, 2, 1]);
  await first.ready();
  assert.deepEqual(shown(first), [1, 2]);
  first.close();
  await page.sync('create', { n: 0 });
  assert.deepEqual(shown(first), [1, 2]);
});

test('without Backbone, a query that cannot be read is told, and what was there stays', async () => {
  const { channel } = await shelf(numbers(2));
  const page = openPage(server.url).io.connection.backend('shelf', { channel });
  const list = await page.collection({ sort: 'n' }).ready();
  const errors = [];
  list.on('error', (err) => errors.push(err.name));
  await assert.rejects(list.setQuery({ n: { $near: 1 } }).ready(), { name: 'BadRequest' });
  await page.sync('create', { n: 1.5 });
  await until(() => list.models.length === 3);
  assert.deepEqual([list.models.map(({ n }) => n), errors], [[0, 1, 1.5], ['BadRequest']]);
  assert.equal(await list.ready(), list);
  const bad = page.collection({ n: { $near: 1 } });
  await assert.rejects(bad.ready(), { name: 'BadRequest' });
  await assert.rejects(bad.ready(), { name: 'BadRequest' });
  await assert.rejects(page.session.connection.backend('closed').collection().ready(), { name: 'Forbidden' });
  assert.throws(() => page.collection({ limit: 2, offset: 2 }), /begins at the beginning/);
});

test('without Backbone, the id may have another name, and what a handler answers by itself is no query', async () => {
  const { connection } = openPage(server.url).io;
  const notes = connection.backend('notes', { channel: 'window' });
  const list = await notes.collection({ sort: '_id' }, { idAttribute: '_id' }).ready();
  await notes.sync('create', { text: 'x' });
  assert.deepEqual(list.models.map(({ text }) => text), ['x']);
  const books = connection.backend('books');
  const [own, other] = [{ n: 1, of: 'window' }, { n: 2, of: 'window' }];
  await books.sync('create', own);
  const page = await books.collection({ page: 0 }).ready();
  const count = page.models.length;
  await books.sync('create', other);
  assert.equal(page.models.length, count + 1);
});

const TITLES = ['', 'a', 'B', 'b', 'é', '\uffff', '😀', `${'x'.repeat(256)}a`, `${'x'.repeat(256)}b`, null, undefined, 1, -1.5, true, false, ['a'], { y: 1 }];
const SORTS = ['n', '-n', ['even', '-n'], 'title', '-title', ['-title', 'n'], 'deep.n', '-id', undefined];
const WHERES = [{}, {}, { even: true }, { n: { $lt: 6 } }, { $or: [{ even: false }, { n: 0 }] }];

/** A schedule: pages with windows on one channel, where everybody writes, while connections break. */
async function run(seed) {
  const random = seeded(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const made = () => {
    const [n, title] = [Math.floor(random() * 10), pick(TITLES)];
    return { n, even: n % 2 === 0, deep: { n: Math.floor(random() * 4) }, ...(title !== undefined && { title }) };
  };
  const { channel, handle } = await shelf(Array.from({ length: Math.floor(random() * 12) }, made));
  const lists = [];
  for (let n = 0; n < 4; n += 1) {
    const data = { ...pick(WHERES), limit: 1 + Math.floor(random() * 5), sort: pick(SORTS) };
    const list = await opened(channel, data, { url: proxy.url });
    lists.push(Object.assign(list, { data, live: await list.handle.collection(data).ready() }));
  }
  // All of it in the order of a field, too, and none of it in any.
  for (const data of [{ sort: '-title' }, undefined]) lists.push({ data, length: 0, live: await lists[0].handle.collection(data).ready(), fetch() {} });
  const steps = Array.from({ length: 25 }, async () => {
    const kind = random();
    const list = pick(lists.slice(0, 4));
    const model = list.length > 0 ? pick(list.models) : undefined;
    const known = await handle.sync('read');
    const record = known.length > 0 ? pick(known) : undefined;
    const ignore = { error() {} };
    if (kind < 0.25 || !record) return handle.sync('create', made());
    if (kind < 0.4) return handle.sync('patch', { id: record.id, ...made() }).catch(() => {});
    if (kind < 0.55) return handle.sync('delete', { id: record.id }).catch(() => {});
    if (kind < 0.65) return void list.create(made(), { ...ignore, wait: random() < 0.5 });
    if (kind < 0.75) return void model?.save(made(), { ...ignore, patch: random() < 0.5 });
    if (kind < 0.85) return void model?.destroy({ ...ignore, wait: random() < 0.5 });
    if (kind < 0.9) return proxy.cut();
    if (kind < 0.95) return void list.fetch({ data: list.data, ...ignore });
    return new Promise((resolve) => setTimeout(resolve, 20));
  });
  for (const step of steps) await step;
  for (const list of lists) {
    const wanted = async () => inOrder(list.data, (await handle.query(list.data ?? {})).models);
    const shown = () => [list.toJSON?.(), list.live.models].filter(Boolean).map((models) => inOrder(list.data, JSON.parse(JSON.stringify(models))));
    const isRight = async () => {
      const right = JSON.stringify(await wanted());
      return shown().every((models) => JSON.stringify(models) === right);
    };
    await until(isRight, JSON.stringify(list.data)).catch(async (err) => {
      for (const models of shown()) assert.deepEqual(models, await wanted(), `schedule ${seed}: ${err.message}`);
    });
  }
}

/** Models that can be compared; those that were asked for in no order, in one. */
const inOrder = (data, models) => models.map(sorted).sort((a, b) => (data || a.id === b.id ? 0 : a.id < b.id ? -1 : 1));
const sorted = (model) => Object.fromEntries(Object.entries(model).sort());

test(`windows are the server's first pages after any of ${SCHEDULES} schedules`, { timeout: SCHEDULES * 20_000 }, async () => {
  const first = Number(process.env.BBIO_SEED ?? 1);
  for (let seed = first; seed < first + SCHEDULES; seed += 1) {
    await run(seed);
    closePages();
  }
});
