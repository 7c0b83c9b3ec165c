/** Lost connections, lost answers, restarted servers: collections come out equal to the store, writes happen once. */
import assert from 'node:assert/strict';
import { closePages, contents, openPage, serveBehindProxy, startServer, test, until } from './support.js';

const { server, proxy } = await serveBehindProxy();

let rooms = 0;

/** A fetched, bound collection in each page, all in one new channel; the first behind the proxy. */
async function pages(count = 2, { connect, ...extra } = {}) {
  const channel = `offline ${(rooms += 1)}`;
  const made = Array.from({ length: count }, (_, n) => {
    const Backbone = openPage(n === 0 ? proxy.url : server.url, { connect });
    return new (Backbone.Collection.extend({ backend: { name: 'rooms', channel }, ...extra }))().bindBackend();
  });
  await Promise.all(made.map((collection) => collection.fetch()));
  return made;
}

const names = ['offline', 'online', 'resumed', 'reset', 'conflict'].map((name) => `remote:${name}`);

/** Note the events of the connection. */
function listen(collection) {
  const heard = [];
  for (const name of names) collection.on(name, (...args) => heard.push([name.slice(7), ...args]));
  heard.names = () => heard.map(([name]) => name);
  return heard;
}

const disconnect = async (heard) => {
  proxy.refuse = true;
  proxy.cut();
  await until(() => heard.names().includes('offline'));
};

test('what was missed comes after reconnecting, in order and once', async () => {
  const [mine, theirs] = await pages();
  const heard = listen(mine);
  const added = [];
  mine.on('add', (model) => added.push(model.get('n')));
  await disconnect(heard);
  for (let n = 0; n < 30; n += 1) await theirs.create({ n }, { wait: true }).collection;
  await until(() => theirs.length === 30);
  const [first, second] = theirs.models;
  await Promise.all([first.save({ n: 100 }), second.destroy()]);
  proxy.refuse = false;
  await until(() => heard.names().includes('resumed'));
  assert.deepEqual(heard.names(), ['offline', 'online', 'resumed']);
  assert.deepEqual(contents(mine), contents(theirs));
  assert.deepEqual(added, Array.from({ length: 30 }, (_, n) => n));
});

test('a write that is larger than the server takes is refused at once, and holds up no other', async () => {
  const [mine, theirs] = await pages();
  const failed = [];
  mine.create({ text: 'x'.repeat(3_000_000) }, { error: (model, err) => failed.push(err) });
  await until(() => failed.length > 0, 'the large write to fail');
  assert.deepEqual([failed[0].name, failed[0].code, failed[0].limit], ['BadRequest', 413, 1_000_000]);
  await mine.create({ text: 'small' }, { wait: true }).collection;
  await until(() => theirs.length === 1 && mine.length === 1);
  assert.deepEqual(contents(mine), contents(theirs));
});

test('writes made while offline are sent once, in order, after reconnecting', async () => {
  const [mine, theirs] = await pages();
  const kept = mine.create({ text: 'kept' });
  const doomed = mine.create({ text: 'doomed' });
  await until(() => theirs.length === 2 && kept.id && doomed.id);
  const heard = listen(mine);
  const creates = [];
  theirs.on('remote:create', (model) => creates.push(model.n));
  await disconnect(heard);
  for (let n = 0; n < 5; n += 1) mine.create({ n });
  kept.save({ text: 'changed' });
  kept.save({ more: true }, { patch: true });
  doomed.destroy();
  proxy.refuse = false;
  await until(() => theirs.length === 6 && theirs.get(kept.id).get('more') && !theirs.get(doomed.id));
  await until(() => !mine.some((model) => model.isNew()));
  assert.deepEqual(creates, [0, 1, 2, 3, 4]);
  assert.deepEqual(contents(mine), contents(theirs));
  assert.deepEqual(heard.names(), ['offline', 'online', 'resumed'], 'own writes in a row are no conflict');
});

test('a save whose answer was lost is repeated without a second effect', async () => {
  const [mine, theirs] = await pages();
  const heard = listen(mine);
  let creates = 0;
  theirs.on('remote:create', () => (creates += 1));
  proxy.deaf = true;
  const saved = [];
  const model = mine.create({ text: 'once' }, { success: () => saved.push('success'), error: (_, err) => saved.push(err) });
  await until(() => theirs.length === 1);
  proxy.cut();
  proxy.deaf = false;
  await until(() => saved.length === 1);
  await until(() => heard.names().includes('resumed'));
  assert.deepEqual(saved, ['success']);
  assert.equal(creates, 1);
  assert.equal(mine.length, 1);
  assert.equal(mine.at(0), model);
  assert.deepEqual(contents(mine), contents(theirs));
});

test('when the server was restarted everything is read again, and what is not yet saved stays', async () => {
  const other = await startServer();
  proxy.target = other.port;
  try {
    const [mine] = await pages(1);
    const [gone] = [mine.create({ text: 'gone' }), mine.create({ text: 'gone too' })];
    await until(() => !mine.some((model) => model.isNew()));
    const heard = listen(mine);
    await disconnect(heard);
    await other.stop();
    const again = await startServer();
    proxy.target = again.port;
    const observer = openPage(again.url);
    const theirs = new observer.Collection([], { backend: mine.backend }).bindBackend();
    await theirs.fetch();
    theirs.create({ text: 'new' });
    await until(() => !theirs.at(0).isNew());
    const unsaved = mine.create({ text: 'made offline' });
    proxy.refuse = false;
    await until(() => heard.names().includes('reset') && !unsaved.isNew() && theirs.length === 2);
    const [, changes] = heard.find(([name]) => name === 'reset');
    assert.deepEqual(changes.added.map((model) => model.get('text')).filter((text) => text !== 'made offline'), ['new']);
    assert.deepEqual(changes.removed.map((model) => model.get('text')), ['gone', 'gone too']);
    assert.equal(mine.includes(gone), false);
    assert.equal(mine.includes(unsaved), true);
    assert.deepEqual(contents(mine), contents(theirs));
    theirs.at(0).save({ text: 'revisions begin anew' });
    await until(() => mine.pluck('text').includes('revisions begin anew'));
    closePages();
    await again.stop();
  } finally {
    await other.stop();
  }
});

test('a save that builds on an older revision is a conflict, and the collection shows what the server holds', async () => {
  const [mine, theirs] = await pages();
  const model = mine.create({ title: 'a', done: false });
  await until(() => theirs.length === 1 && model.id);
  const heard = listen(mine);
  await disconnect(heard);
  await theirs.at(0).save({ title: 'theirs' });
  const outcome = model.save({ title: 'mine' }).then(assert.fail, (err) => err);
  model.set('draft', 'kept');
  proxy.refuse = false;
  const err = await outcome;
  assert.equal(err.name, 'Conflict');
  const [, conflicted, sent, held] = heard.find(([name]) => name === 'conflict');
  assert.equal(conflicted, model);
  assert.equal(sent.title, 'mine');
  assert.equal(held.title, 'theirs');
  assert.deepEqual(model.attributes, { id: model.id, title: 'theirs', done: false, draft: 'kept' });
  await model.save({ title: 'mine after all' });
  await until(() => theirs.at(0).get('title') === 'mine after all');
});

test('a refused update goes back to what the server holds and keeps later edits', async () => {
  const Backbone = openPage(server.url);
  const todos = new Backbone.Collection([], { backend: 'todos' }).bindBackend();
  await todos.fetch();
  const model = todos.create({ title: 'good', note: 'n', size: 1 });
  await until(() => model.id);
  const outcome = model.save({ title: 'bad', size: 2 }).then(assert.fail, (err) => err);
  model.set({ note: 'edited', size: 3 });
  assert.equal((await outcome).name, 'Invalid');
  assert.deepEqual(model.attributes, { id: model.id, title: 'good', note: 'edited', size: 3 });
});

test('a refused create leaves the collection, a refused delete comes back', async () => {
  const Backbone = openPage(server.url);
  const todos = new Backbone.Collection([], { backend: 'todos' }).bindBackend();
  await todos.fetch();
  const before = todos.length;
  const told = [];
  todos.on('error', (model, err) => told.push([model, err.name]));
  const model = todos.create({ title: 'bad' });
  assert.equal(todos.length, before + 1);
  await until(() => todos.length === before);
  assert.equal(todos.includes(model), false);
  await until(() => told.length);
  assert.deepEqual(told, [[model, 'Invalid']]);

  const echo = new Backbone.Collection([], { backend: 'stubborn' }).bindBackend();
  await echo.fetch();
  const [first] = echo.models;
  echo.on('error', (model, err) => told.push([model, err.name]));
  const outcome = first.destroy().then(assert.fail, (err) => err);
  assert.equal(echo.includes(first), false);
  assert.equal((await outcome).name, 'Forbidden');
  assert.equal(echo.at(0), first);
  assert.deepEqual(told.slice(1), [[first, 'Forbidden']]);
});

test('an update that is under way is not overwritten by older news', async () => {
  const [mine, theirs] = await pages();
  const model = mine.create({ a: 1, b: 1 });
  await until(() => theirs.length === 1 && model.id);
  const heard = listen(mine);
  await disconnect(heard);
  await theirs.at(0).save({ a: 3, b: 2 }, { patch: true });
  const values = [];
  model.on('change:a', () => values.push(model.get('a')));
  const outcome = model.save({ a: 5 }, { patch: true }).then(assert.fail, (err) => err);
  proxy.refuse = false;
  await until(() => model.get('b') === 2);
  assert.equal((await outcome).name, 'Conflict');
  assert.deepEqual(values, [5, 3], 'optimistic until the answer, then what the server holds');
});

test('too many waiting writes are Busy at once', async () => {
  const [mine] = await pages(1, { connect: { queueLimit: 2 } });
  const heard = listen(mine);
  await disconnect(heard);
  const errors = [];
  for (let n = 0; n < 4; n += 1) mine.create({ n }, { error: (_, err) => errors.push(err.name) });
  await until(() => errors.length === 2);
  assert.deepEqual(errors, ['Busy', 'Busy']);
  assert.equal(mine.length, 2);
  proxy.refuse = false;
  await until(() => !mine.some((model) => model.isNew()));
});

test('positions outlive the page when persist is asked for', async () => {
  const stored = new Map();
  globalThis.sessionStorage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) };
  try {
    const backend = { name: 'rooms', channel: 'persistent', persist: true };
    const visit = () => new (openPage(server.url).Collection)([], { backend }).bindBackend();
    const first = visit();
    await first.fetch();
    const kept = first.create({ text: 'before' });
    await until(() => kept.id);
    const restored = first.toJSON();
    closePages();

    const other = new (openPage(server.url).Collection)([], { backend: { ...backend, persist: false } }).bindBackend();
    other.create({ text: 'between' });
    await until(() => !other.at(0).isNew());

    const second = visit();
    const heard = listen(second);
    second.set(restored);
    await until(() => second.length === 2);
    assert.deepEqual(second.pluck('text'), ['before', 'between']);
    await until(() => heard.names().includes('resumed'));
  } finally {
    delete globalThis.sessionStorage;
  }
});
