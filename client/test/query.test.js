/** Queries: pages, and bound collections that keep to what they were fetched with; the server is the judge. */
import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { isPaged, matches, said } from '../src/core/query.js';
import { closePages, openPage, startProxy, startServer, test, until } from './support.js';

let server;
before(async () => (server = await startServer()));
after(() => server.stop());
afterEach(closePages);

let channels = 0;
/** A channel that nobody has used, with these models. */
async function shelf(models) {
  const channel = `shelf-${(channels += 1)}`;
  const Backbone = openPage(server.url);
  const handle = Backbone.io.connection.backend('shelf', { channel });
  for (const model of models) await handle.sync('create', model);
  const collection = (on = Backbone) => new on.Collection([], { backend: { name: 'shelf', channel } }).bindBackend();
  return { Backbone, channel, handle, collection };
}

const numbers = (count) => Array.from({ length: count }, (_, n) => ({ n, even: n % 2 === 0 }));
const fetched = (collection, data, options = {}) =>
  new Promise((resolve, reject) => {
    collection.fetch({ data, ...options, success: (_, __, used) => resolve(used), error: (_, err) => reject(err) });
  });

test('a page comes with its cursor and the total, in callback, event and on the collection', async () => {
  const { collection } = await shelf(numbers(5));
  const todos = collection();
  let told;
  todos.on('sync', (_, __, options) => (told = options.page));
  const data = { even: true, sort: '-n', limit: 2, count: true };
  const options = await fetched(todos, data);
  assert.deepEqual(todos.pluck('n'), [4, 2]);
  assert.equal(options.page.total, 3);
  assert.equal(typeof options.page.next, 'string');
  assert.equal(told, options.page);
  assert.equal(todos.page, options.page);
  await fetched(todos, { ...data, cursor: todos.page.next }, { remove: false });
  assert.deepEqual(todos.pluck('n'), [4, 2, 0]);
  assert.deepEqual(todos.page, { next: null, total: 3 });
  await fetched(todos, undefined);
  assert.equal('page' in todos, false);
  todos.page = 7;
  await fetched(todos, undefined);
  assert.equal(todos.page, 7);
});

test('a plain fetch says nothing of pages', async () => {
  const { collection } = await shelf(numbers(2));
  const todos = collection();
  const options = await fetched(todos, undefined);
  assert.equal('page' in options, false);
  assert.equal('page' in todos, false);
});

test('without Backbone, query returns models, next and total', async () => {
  const { handle } = await shelf(numbers(3));
  const data = { sort: 'n', limit: 2 };
  const first = await handle.query({ ...data, count: true });
  assert.deepEqual([first.models.map(({ n }) => n), first.total], [[0, 1], 3]);
  const last = await handle.query({ ...data, cursor: first.next });
  assert.deepEqual([last.models.map(({ n }) => n), last.next, 'total' in last], [[2], null, false]);
  await assert.rejects(handle.query({ n: { $near: 1 } }), { name: 'BadRequest' });
});

test('a bound collection keeps to its query: models enter and leave with it', async () => {
  const { collection, handle } = await shelf([]);
  const open = collection();
  await fetched(open, { done: false, rank: { $gt: 1 } });
  const heard = [];
  open.on('remote:create remote:update', (model) => heard.push(model.title));
  open.on('destroy', () => heard.push('destroyed'));
  const other = await handle.sync('create', { title: 'done', done: true, rank: 2 });
  const low = await handle.sync('create', { title: 'low', done: false, rank: 1 });
  const milk = await handle.sync('create', { title: 'milk', done: false, rank: 2 });
  await until(() => open.get(milk.id));
  assert.deepEqual(open.pluck('title'), ['milk']);
  await handle.sync('patch', { id: milk.id, done: true });
  await until(() => open.length === 0);
  await handle.sync('patch', { id: low.id, rank: 3 });
  await until(() => open.get(low.id));
  assert.deepEqual(heard, ['done', 'low', 'milk', 'milk', 'low']);
  assert.equal(open.get(other.id), undefined);
});

test('what this page creates stays in its collection, whatever the query', async () => {
  const { collection } = await shelf([]);
  const open = collection();
  await fetched(open, { done: false });
  const mine = open.create({ done: true });
  await until(() => mine.id !== undefined);
  await fetched(collection(), { done: false });
  assert.ok(open.get(mine.id));
});

test('a model that is being destroyed does not come back when a save before that is refused', async () => {
  const { collection, handle } = await shelf([{ done: false, n: 1 }]);
  const open = collection();
  await fetched(open, { done: false });
  const model = open.at(0);
  const { name, channel } = open.backend;
  const elsewhere = openPage(server.url).io.connection.backend(name, { channel });
  await elsewhere.sync('patch', { id: model.id, n: 2 });
  await until(() => model.get('n') === 2);
  // One that builds on what was there before.
  const { request } = handle.session;
  handle.session.request = (fields) => request.call(handle.session, { ...fields, request: { ...fields.request, ...(fields.request.rev && { rev: 1 }) } });
  const refused = new Promise((resolve) => open.once('error', (_, err) => resolve(err.name)));
  const gone = new Promise((success) => {
    model.save({ n: 3 });
    model.destroy({ success });
  });
  assert.equal(await refused, 'Conflict');
  await gone;
  assert.equal(open.length, 0);
});

test('a field that was changed there and back by saves that are refused shows what the server has', async () => {
  const { collection, handle } = await shelf([{ n: 1 }]);
  const list = collection();
  await fetched(list);
  const model = list.at(0);
  const { name, channel } = list.backend;
  const { request } = handle.session;
  const waiting = [];
  handle.session.request = (fields) => void waiting.push(fields);
  const refused = [3, 1].map((n) => new Promise((resolve) => model.save({ n }, { error: (_, err) => resolve(err.name) })));
  handle.session.request = request;
  await openPage(server.url).io.connection.backend(name, { channel }).sync('patch', { id: model.id, n: 5, title: 'theirs' });
  await until(() => model.get('title') === 'theirs');
  for (const fields of waiting) handle.session.request(fields);
  assert.deepEqual(await Promise.all(refused), ['Conflict', 'Conflict']);
  assert.deepEqual(model.attributes, { id: model.id, n: 5, title: 'theirs' });
});

test('nothing enters a page that is not the first but by a fetch; what it has changes, and leaves with the query', async () => {
  const { collection, handle } = await shelf(numbers(6));
  const page = collection();
  await fetched(page, { n: { $lt: 10 }, sort: 'n', limit: 2, offset: 2 });
  const created = [];
  page.on('remote:create', (model) => created.push(model.n));
  await handle.sync('create', { n: -1 });
  const [first, second] = page.models;
  await handle.sync('patch', { id: first.id, n: 2.5 });
  await handle.sync('patch', { id: second.id, n: 11 });
  await until(() => page.length === 1);
  assert.deepEqual(page.pluck('n'), [2.5]);
  assert.deepEqual(created, [-1]);
});

test('after lost history a list of pages is as long as it was, and nothing counts as destroyed', async () => {
  const Backbone = openPage(undefined);
  const own = await startServer();
  const proxy = await startProxy(own.port);
  Backbone.io.connect(proxy.url, { transports: ['websocket'], reconnectionDelay: 50, reconnectionDelayMax: 100, jitter: 50 });
  const handle = Backbone.io.connection.backend('shelf');
  for (const model of numbers(4)) await handle.sync('create', model);
  const list = new Backbone.Collection([], { backend: 'shelf' }).bindBackend();
  const data = { sort: 'n', limit: 2 };
  await fetched(list, data);
  await fetched(list, { ...data, cursor: list.page.next }, { remove: false });
  assert.deepEqual(list.pluck('n'), [0, 1, 2, 3]);
  const lost = [];
  list.on('destroy', (model) => lost.push(model.get('n')));
  const reset = new Promise((resolve) => list.once('remote:reset', resolve));
  // Another server, whose history is another.
  const next = await startServer();
  const elsewhere = openPage(next.url).io.connection.backend('shelf');
  for (const model of numbers(7)) await elsewhere.sync('create', model);
  proxy.target = next.port;
  proxy.cut();
  await reset;
  assert.deepEqual(list.pluck('n'), [0, 1, 2, 3]);
  await fetched(list, { ...data, cursor: list.page.next }, { remove: false });
  assert.deepEqual(list.pluck('n'), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(lost, []);
  await Promise.all([own.stop(), next.stop(), proxy.stop()]);
});

test('data that a handler of the server answers by itself is no query', async () => {
  const Backbone = openPage(server.url);
  const echo = new Backbone.Collection([], { backend: 'echo' }).bindBackend();
  const options = await fetched(echo, { page: 2, limit: 'few' });
  assert.equal('page' in options, false);
  assert.equal(echo.length, 1);
});

test('data that a layer of the server makes a query of is not held against what others write', async () => {
  const Backbone = openPage(server.url);
  const books = Backbone.io.connection.backend('books');
  for (const model of numbers(3)) await books.sync('create', model);
  const list = new Backbone.Collection([], { backend: 'books' }).bindBackend();
  const { page } = await fetched(list, { page: 0 });
  assert.equal(typeof page.next, 'string');
  assert.equal(list.length, 2);
  await books.sync('create', { n: 3 });
  await until(() => list.length === 3);
});

const VALUES = [
  ...[undefined, null, true, false, 0, -0, 1, 1.5, -3, 10, '', 'a', 'A', 'ab', 'b', '10', 'é', '\uffff', '😀', '%', '_', '\\', '.*'],
  ...['x'.repeat(255), 'x'.repeat(256), [], ['a'], [1, null], ['1', [1], { y: 1 }], ['x'.repeat(255), true, 1.5], ['x'.repeat(256), false], {}, { y: 1 }, { y: [1] }, { y: 'a' }, { y: { z: null } }],
];
const OPERANDS = VALUES.filter((value) => value !== undefined && typeof value !== 'object' && `${value}`.length < 256);
const COMPARED = OPERANDS.filter((value) => typeof value !== 'boolean');
const PATTERNS = ['', '%', '_', '__', 'a%', '%a', '%b', '\\%', '\\_', '\\\\', '\\.\\*', '.*', '%%', 'a_', 'x%x', '1%0', '[a]', 'é', '\\é'];
const QUERIES = [
  ...[null, ...OPERANDS].flatMap((x) => [{ x }, { x: { $eq: x } }, { x: { $ne: x } }, { 'x.y': x }, { $or: [{ x }, { 'x.y': 1 }] }]),
  ...COMPARED.flatMap((x) => ['$gt', '$gte', '$lt', '$lte'].map((operator) => ({ x: { [operator]: x } }))),
  ...PATTERNS.map(($like) => ({ x: { $like } })),
  ...[[], [1, 'a'], [null, true, 0, '']].map(($in) => ({ x: { $in } })),
  ...OPERANDS.map(($contains) => ({ x: { $contains } })),
  ...[{ $or: [{ 'x.y': { $contains: 1 } }, { x: { $contains: 'a' } }] }],
  ...[{}, { 'x.y.z': null }, { 'x.0': 'a' }, { $or: [{ x: 1 }, { $or: [{ x: 'a' }, { 'x.y': 'a' }] }] }, { x: { $gt: 0, $lt: 5 } }],
  ...[{ limit: { $eq: 7 } }, { sort: { $in: [7] } }, { $sort: 'x', x: 1 }, { sort: '-x', count: true, x: { $gte: 'a' } }],
];

test('the client finds what the server finds', async () => {
  const { handle } = await shelf(VALUES.map((x, n) => ({ n, ...(x !== undefined && { x }), ...(n === 3 && { limit: 7, sort: 7 }) })));
  const all = await handle.sync('read');
  assert.equal(all.length, VALUES.length);
  const asked = await Promise.all(QUERIES.map((data) => handle.sync('read', {}, { data })));
  for (const [at, found] of asked.entries()) {
    const expected = found.map(({ n }) => n).sort((a, b) => a - b);
    const mine = all.filter((model) => matches(QUERIES[at], model)).map(({ n }) => n);
    assert.deepEqual(mine.sort((a, b) => a - b), expected, JSON.stringify(QUERIES[at]));
  }
});

test('words are said with a dollar or without, and a page is what asks for a part', () => {
  assert.equal(said({ limit: 5 }, 'limit'), 5);
  assert.equal(said({ $limit: 5, limit: { $eq: 1 } }, 'limit'), 5);
  assert.equal(said({ limit: { $eq: 1 } }, 'limit'), undefined);
  assert.equal(said(undefined, 'limit'), undefined);
  assert.deepEqual([{ a: 1 }, { limit: { $gt: 1 } }, { limit: 1 }, { $offset: 1 }, { cursor: 'x' }, undefined].map(isPaged), [
    false, false, true, true, true, false,
  ]);
});
