/** Counting and appending from Backbone: shown at once, sent as what it adds, and shown as what the server made of it. */
import assert from 'node:assert/strict';
import { openPage, serveBehindProxy, test, until, versions } from './support.js';

const { server, proxy } = await serveBehindProxy();

let rooms = 0;

/** The same model in two pages, the first behind the proxy: `[mine, theirs]`. */
async function pair(version, attributes = { title: 'milk', n: 5 }) {
  const channel = `counts ${(rooms += 1)}`;
  const lists = [proxy.url, server.url].map((url) => {
    const Backbone = openPage(url, version && { version });
    return new (Backbone.Collection.extend({ backend: { name: 'counted', channel } }))().bindBackend();
  });
  await Promise.all(lists.map((list) => list.fetch()));
  const mine = lists[0].create(attributes);
  const theirs = await until(() => mine.id && lists[1].get(mine.id));
  return [mine, theirs];
}

/** What a model has come to show of a field, one after the other. */
function shown(model, name) {
  const values = [];
  model.on(`change:${name}`, (_, value) => values.push(value));
  return values;
}

const count = (model, counts, options = {}, sets = {}) => model.save({ $inc: counts, ...sets }, { patch: true, ...options });

for (const version of versions) {
  test(`Backbone ${version}: a model shows what it counts at once, and others what came of it`, async () => {
    const [mine, theirs] = await pair(version);
    const done = count(mine, { n: 2, fresh: 1 }, {}, { title: 'bread' });
    assert.deepEqual(mine.attributes, { id: mine.id, title: 'bread', n: 7, fresh: 1 });
    await done;
    await until(() => theirs.get('n') === 7);
    assert.deepEqual(theirs.attributes, { id: mine.id, title: 'bread', n: 7, fresh: 1 });
    assert.deepEqual(mine.attributes, theirs.attributes);
    await count(mine, { n: -3 }, { wait: true });
    assert.equal(mine.get('n'), 4);
    assert.equal('$inc' in mine.attributes, false);
  });
}

test('what several pages count at once adds up everywhere', async () => {
  const [mine, theirs] = await pair();
  await Promise.all(Array.from({ length: 40 }, (_, n) => count(n % 2 ? mine : theirs, { n: n % 2 ? 1 : 2 })));
  await until(() => mine.get('n') === 65 && theirs.get('n') === 65);
});

test('what is refused is taken back, and what still waits stays', async () => {
  const [mine] = await pair();
  const wrong = count(mine, { n: 1, title: 1 });
  assert.equal(mine.get('n'), 6);
  await assert.rejects(wrong, { name: 'BadRequest', message: "'title' does not hold a number" });
  assert.deepEqual(mine.attributes, { id: mine.id, title: 'milk', n: 5 });

  proxy.refuse = true;
  proxy.cut();
  const outcomes = [count(mine, { n: 1 }), count(mine, { n: 10 }, { timeout: 50 }), count(mine, { n: 100 })];
  assert.equal(mine.get('n'), 116);
  await assert.rejects(outcomes[1], { name: 'Timeout' });
  assert.equal(mine.get('n'), 106);
  proxy.refuse = false;
  await Promise.all([outcomes[0], outcomes[2]]);
  assert.equal(mine.get('n'), 106);
});

test('what cannot be counted here shows what the server says, before its answer and after', async () => {
  const [mine, theirs] = await pair();
  proxy.refuse = true;
  proxy.cut();
  const counts = [{ title: 1 }, { n: 'x' }, { ghost: 'x' }].map((each) => assert.rejects(count(mine, each), { name: 'BadRequest' }));
  assert.deepEqual(mine.attributes, { id: mine.id, title: 'milk', n: 5 });
  await theirs.save({ title: 'bread', n: 9 }, { patch: true });
  proxy.refuse = false;
  await Promise.all(counts);
  await until(() => mine.get('title') === 'bread');
  assert.deepEqual(mine.attributes, { id: mine.id, title: 'bread', n: 9 });
});

test('what was counted while offline is sent once, on top of what others have counted', async () => {
  const [mine, theirs] = await pair();
  proxy.deaf = true; // the answer of the first is lost
  const first = count(mine, { n: 1 });
  await until(() => theirs.get('n') === 6);
  proxy.refuse = true;
  proxy.cut();
  const second = count(mine, { n: 1 });
  await count(theirs, { n: 100 });
  assert.equal(mine.get('n'), 7);
  const values = shown(mine, 'n');
  Object.assign(proxy, { refuse: false, deaf: false });
  await Promise.all([first, second]);
  await until(() => theirs.get('n') === 107);
  await until(() => mine.get('n') === 107);
  assert.equal(values.at(-1), 107);
});

test('news of others goes below what waits', async () => {
  const [mine, theirs] = await pair();
  const slow = count(mine, { n: 1 }, { slow: true }, { constructor: 'x' });
  assert.equal(mine.get('n'), 6);
  await count(theirs, { n: 10 });
  await until(() => mine.get('n') === 16);
  assert.equal(mine.get('constructor'), 'x');
  mine.set('n', 99); // changed again, and not saved
  const told = new Promise((resolve) => mine.collection.once('remote:update', resolve));
  await count(theirs, { n: 10 });
  assert.equal((await told).n, 25);
  assert.equal(mine.get('n'), 99);
  await theirs.save({ title: 'go' }, { patch: true });
  await slow;
  await until(() => mine.get('n') === 26);
});

test('a model that is not created yet, and what the page does not know, count on the server or on nothing', async () => {
  const [mine, theirs] = await pair(undefined, { price: '1.50', constructor: 1 });
  assert.equal(mine.isNew(), false);
  await assert.rejects(count(mine, { price: 1 }), { name: 'BadRequest' });
  assert.equal(mine.get('price'), '1.50');
  await count(mine, { constructor: 1 });
  await until(() => theirs.get('constructor') === 2);
  const made = mine.collection.add({ n: 1 });
  count(made, { n: 1 });
  const seen = await until(() => made.id && theirs.collection.get(made.id));
  assert.deepEqual(seen.attributes, { id: made.id, n: 2 });
});

test('a count that waits is on top of what a fetch reads meanwhile', async () => {
  const [mine, theirs] = await pair();
  const slow = count(mine, { n: 1 }, { slow: true });
  // Of what others write the page hears after its fetch, which tells of the same.
  const waits = mine.collection.fetch({ slow: 0.5 });
  await theirs.save({ n: 20 }, { patch: true });
  await waits;
  assert.equal(mine.get('n'), 21);
  await theirs.save({ title: 'go' }, { patch: true });
  await slow;
  assert.equal(mine.get('n'), 21);
});

test('a model that is not bound shows what waits, too, on top of what an answer tells', async () => {
  const [bound, theirs] = await pair();
  const mine = new bound.constructor({ id: bound.id, n: 5 }, { collection: bound.collection });
  bound.collection.unbindBackend();
  const first = mine.save({ $inc: { n: 1 }, title: 'a' }, { patch: true });
  const second = mine.save({ $inc: { n: 10 }, title: 'b' }, { patch: true, slow: true });
  await count(theirs, { n: 100 });
  await first;
  const before = theirs.get('n');
  assert.deepEqual([mine.get('n'), mine.get('title')], [before + 10, 'b']);
  await theirs.save({ title: 'go' }, { patch: true });
  await second;
  assert.equal(mine.get('n'), 116);
});

test('a model shows what it appends at once, on top of what others append, until it is refused', async () => {
  const [mine, theirs] = await pair();
  const append = (model, text, options, sets = {}) => model.save({ $append: { title: text }, ...sets }, { patch: true, ...options });
  const done = append(mine, ' and', {}, { $inc: { n: 1 }, fresh: true });
  assert.deepEqual(mine.attributes, { id: mine.id, title: 'milk and', n: 6, fresh: true });
  await done;
  await until(() => theirs.get('title') === 'milk and');
  assert.deepEqual(theirs.attributes, mine.attributes);

  proxy.refuse = true;
  proxy.cut();
  const outcomes = [append(mine, ' a'), append(mine, ' b', { timeout: 50 }), append(mine, ' c')];
  assert.equal(mine.get('title'), 'milk and a b c');
  await assert.rejects(outcomes[1], { name: 'Timeout' });
  assert.equal(mine.get('title'), 'milk and a c');
  await append(theirs, ' d');
  proxy.refuse = false;
  await Promise.all([outcomes[0], outcomes[2]]);
  await until(() => theirs.get('title') === 'milk and d a c' && mine.get('title') === 'milk and d a c');

  await assert.rejects(append(mine, ' e', {}, { $inc: { title: 1 } }), { name: 'BadRequest' });
  const wrong = [{ n: 'x' }, { title: 1 }, 'x'].map((each) => mine.save({ $append: each }, { patch: true }));
  assert.equal(mine.get('title'), 'milk and d a c');
  for (const each of wrong) await assert.rejects(each, { name: 'BadRequest' });
  assert.equal(mine.get('title'), 'milk and d a c');
});

test('only a patch counts, and other models are saved as ever', async () => {
  const [mine] = await pair();
  await assert.rejects(Promise.resolve(mine.save({ $inc: { n: 1 } })), { name: 'BadRequest' });
  assert.deepEqual(mine.attributes, { id: mine.id, title: 'milk', n: 5 });
});

test('where a backend answers nothing, the page and its other lists show what was counted', async () => {
  const Backbone = openPage(server.url);
  const lists = [1, 2].map(() => new (Backbone.Collection.extend({ backend: 'silent' }))([{ id: 1, n: 1 }]).bindBackend());
  await count(lists[0].get(1), { n: 1 });
  assert.deepEqual(lists[0].get(1).attributes, { id: 1, n: 2 });
  assert.equal('$inc' in lists[1].get(1).attributes, false);
  const large = { n: 9, text: 'x'.repeat(1_100_000) };
  await assert.rejects(Promise.resolve(lists[0].get(1).save(large, { patch: true })), { code: 413 });
  assert.deepEqual(lists[0].get(1).attributes, { id: 1, n: 2 }, 'what is refused goes back to that');
});
