/** Partial events: what changed travels, and every page shows whole records all the same. */
import assert from 'node:assert/strict';
import { contents, openPage, serveBehindProxy, test, until, versions } from './support.js';

const { server, proxy } = await serveBehindProxy();

let rooms = 0;

/** Pages with a bound collection of the same channel, the first behind the proxy; each with what its socket heard and said. */
function open(count = 2, { backend = 'stories', version, Kind } = {}) {
  const channel = `stories ${(rooms += 1)}`;
  const pages = Array.from({ length: count }, (_, n) => {
    const heard = [];
    const Backbone = openPage(n ? server.url : proxy.url, { heard, ...(version && { version }) });
    const Tales = Backbone.Collection.extend({ backend: { name: backend, channel }, ...Kind?.(Backbone) });
    return { Backbone, Tales, heard, list: new Tales().bindBackend(), handle: Backbone.io.connection.backend(backend, { channel }) };
  });
  return { channel, pages };
}

const fetched = (list, options) => Promise.resolve(list.fetch(options));
const told = (heard) => heard.filter(([event]) => event === 'synced').map(([, method, model, meta]) => ({ method, model, meta }));
const patches = (heard) => told(heard).filter(({ method }) => method === 'patch');
const reads = (heard) => heard.filter(([event, request]) => event === 'sync' && request.method === 'read' && Object.keys(request.model).length > 0);
const emit = (handle, model, what = 'updated') =>
  handle.session.connection.backend('control').sync('create', { backend: 'stories', what, model, channel: handle.channel });

for (const version of versions) {
  test(`Backbone ${version}: a page is told what changed, and shows the whole`, async () => {
    const { pages } = open(2, { version });
    const [mine, theirs] = pages;
    await Promise.all(pages.map(({ list }) => fetched(list)));
    const model = mine.list.create({ text: 'one', n: 1, gone: true, same: { a: [1] } });
    const seen = await until(() => model.id && theirs.list.get(model.id));
    let heard;
    theirs.list.on('remote:update', (record) => (heard = record));
    await model.save({ n: 2, $append: { text: ' two' }, more: null }, { patch: true });
    await until(() => seen.get('n') === 2);
    assert.deepEqual(seen.attributes, { id: model.id, text: 'one two', n: 2, gone: true, same: { a: [1] }, more: null });
    assert.deepEqual(heard, seen.attributes);
    assert.deepEqual(patches(theirs.heard).map(({ model: sets, meta: { append, unset } }) => ({ sets, append, unset })), [
      { sets: { id: model.id, n: 2, more: null }, append: { text: ' two' }, unset: undefined },
    ]);
    model.unset('gone');
    await model.save({ text: 'on' });
    await until(() => seen.get('text') === 'on');
    assert.deepEqual(seen.attributes, { id: model.id, text: 'on', n: 2, same: { a: [1] }, more: null });
    const last = patches(theirs.heard).at(-1);
    assert.deepEqual([last.model, last.meta.unset], [{ id: model.id, text: 'on' }, ['gone']]);
    await model.save({ n: 2 }, { patch: true });
    await until(() => Object.keys(patches(theirs.heard).at(-1).model).length === 1);
    assert.deepEqual(reads(theirs.heard), []);
    assert.deepEqual(model.attributes, seen.attributes);
  });
}

test('who holds nothing hears of whole records all the same', async () => {
  const { channel, pages } = open(2);
  const [mine, theirs] = pages;
  const model = await mine.handle.sync('create', { text: 'a' });
  theirs.list.unbindBackend();
  const loose = new theirs.Backbone.Model({ id: model.id }, { backend: { name: 'stories', channel } });
  const [synced, events] = [[], []];
  theirs.handle.on('synced', (method, record) => synced.push([method, record]));
  loose.on('remote:update', (record) => events.push(record));
  await until(() => theirs.handle.follower.ready);
  for (const text of ['b', 'c', 'd']) {
    await mine.handle.sync('patch', { id: model.id, $append: { text } });
    await until(() => synced.at(-1)?.[1].text?.endsWith(text) && events.at(-1)?.text.endsWith(text));
  }
  // The create may come late, when the listener is there already.
  if (synced[0][0] === 'create') assert.deepEqual(synced.shift(), ['create', model]);
  assert.deepEqual(synced, ['ab', 'abc', 'abcd'].map((text) => ['update', { ...model, text }]));
  assert.equal(reads(theirs.heard).length, 1);
});

test('what is not up to date is read, and what nobody knows is not', async () => {
  const { pages } = open(2);
  const [mine, theirs] = pages;
  const [one, other] = [await mine.handle.sync('create', { text: 'a' }), await mine.handle.sync('create', { text: 'x' })];
  await fetched(theirs.list);
  // Of what is emitted nobody knows the revision.
  await emit(mine.handle, { id: one.id, text: 'emitted' });
  await until(() => theirs.list.get(one.id).get('text') === 'emitted');
  await mine.handle.sync('patch', { id: one.id, $append: { text: 'b' } });
  await until(() => theirs.list.get(one.id).get('text') === 'ab');
  assert.equal(reads(theirs.heard).length, 1);
  await mine.handle.sync('patch', { id: one.id, $append: { text: 'c' } });
  await until(() => theirs.list.get(one.id).get('text') === 'abc');
  assert.equal(reads(theirs.heard).length, 1);
  // A collection of some models, told of others.
  await fetched(theirs.list, { data: { text: 'abc' } });
  await mine.handle.sync('patch', { id: other.id, n: 1 });
  await mine.handle.sync('patch', { id: one.id, n: 1 });
  await until(() => theirs.list.get(one.id).get('n') === 1);
  assert.equal(reads(theirs.heard).length, 1);
  await mine.handle.sync('patch', { id: other.id, text: 'abc' });
  await until(() => theirs.list.get(other.id)?.get('n') === 1);
});

test('a record from the page itself, ids with other names and of other kinds', async () => {
  const bound = open(2, { backend: 'tales', Kind: (Backbone) => ({ model: Backbone.Model.extend({ idAttribute: '_id' }) }) });
  const own = open(2, { backend: 'tales', Kind: (Backbone) => ({ model: Backbone.Model.extend({ parse: ({ _id: id, ...rest }) => ({ id, ...rest }) }) }) });
  const made = open(2, { Kind: () => ({ modelId: ({ id }) => `story-${id}` }) });
  for (const { pages } of [bound, own, made]) {
    const [mine, theirs] = pages;
    const record = await mine.handle.sync('create', { text: 'a', n: 0 });
    const name = '_id' in record ? '_id' : 'id';
    await fetched(theirs.list);
    for (let n = 1; n < 4; n += 1) await mine.handle.sync('patch', { [name]: record[name], $append: { text: 'b' }, n });
    await until(() => theirs.list.models[0].get('n') === 3);
    assert.equal(theirs.list.models[0].get('text'), 'abbb');
  }
  const { pages: [mine, theirs] } = open(2);
  const record = await mine.handle.sync('create', { text: 'a' });
  theirs.list.reset([record]);
  await until(() => theirs.handle.follower.ready);
  await mine.handle.sync('patch', { id: record.id, n: 1 });
  await until(() => theirs.list.get(record.id).get('n') === 1);
  const single = new theirs.Backbone.Model({ id: record.id }, { backend: theirs.list.backend }).bindBackend();
  theirs.list.unbindBackend();
  await mine.handle.sync('patch', { id: record.id, n: 2 });
  await until(() => single.get('n') === 2);
  assert.equal(single.get('text'), 'a');
});

test('what comes while a list is read waits for it', async () => {
  const { pages: [mine, theirs] } = open(2);
  const record = await mine.handle.sync('create', { text: 'a' });
  await until(() => theirs.handle.follower.ready);
  const waits = fetched(theirs.list, { slow: 0.3 });
  await mine.handle.sync('patch', { id: record.id, $append: { text: 'b' } });
  await until(() => patches(theirs.heard).length === 1);
  await waits;
  const late = await mine.handle.sync('patch', { id: record.id, $append: { text: 'c' } });
  await until(() => theirs.list.get(record.id).get('text') === late.text);
  assert.equal(late.text, 'abc');
});

test('what was missed comes as what changed, and an own write whose answer was lost counts once', async () => {
  const { pages } = open(2);
  const [mine, theirs] = pages;
  await Promise.all(pages.map(({ list }) => fetched(list)));
  const model = mine.list.create({ text: 'a' });
  await until(() => model.id && theirs.list.get(model.id));
  proxy.deaf = true;
  const lost = model.save({ $append: { text: 'b' } }, { patch: true });
  await until(() => theirs.list.get(model.id).get('text') === 'ab');
  proxy.refuse = true;
  proxy.cut();
  const shown = [];
  model.on('change:text', () => shown.push(model.get('text')));
  await theirs.handle.sync('patch', { id: model.id, $append: { text: 'c' } });
  Object.assign(proxy, { refuse: false, deaf: false });
  await lost;
  await until(() => model.get('text') === 'abc');
  assert.deepEqual(shown, ['abc']);
  assert.deepEqual(model.attributes, theirs.list.get(model.id).attributes);
});

test('where reads tell no revisions, whole records are told', async () => {
  const heard = [];
  const Backbone = openPage(server.url, { heard });
  const list = new (Backbone.Collection.extend({ backend: 'retold' }))().bindBackend();
  await fetched(list);
  const handle = Backbone.io.connection.backend('retold');
  const other = openPage(server.url).io.connection.backend('retold');
  for (const text of ['b', 'c', 'd', 'e']) await other.sync('patch', { id: 1, $append: { text } });
  await until(() => list.get(1).get('text') === 'abcde');
  await until(() => handle.follower.ready && !handle.follower.stale);
  await other.sync('patch', { id: 1, n: 1 });
  await until(() => list.get(1).get('n') === 1);
  assert.equal(told(heard).at(-1).method, 'update');
});

/** Numbers from 0 to 1 that are the same each time. */
function seeded(seed) {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

for (const seed of [1, 2, 3, 4, 5, 6]) {
  test(`random patches, appends and cuts: every page comes to show what the server holds (${seed})`, async () => {
    const random = seeded(seed);
    const pick = (list) => list[Math.floor(random() * list.length)];
    const { pages } = open(5, { backend: seed % 2 ? 'stories' : 'feed' });
    const [windows, writer] = [pages.splice(3), pages[2]];
    const queries = [{ sort: '-n', limit: 2 }, { n: { $gt: 1 }, sort: ['text', 'n'], limit: 3 }];
    windows.forEach(({ list }) => list.unbindBackend());
    const first = windows.map(({ handle }, n) => handle.collection(queries[n]));
    await Promise.all([...pages.map(({ list }) => fetched(list)), ...first.map((each) => each.ready())]);
    const ids = [];
    for (let n = 0; n < 3; n += 1) ids.push((await writer.handle.sync('create', { text: '', n })).id);
    const waiting = [];
    const write = (page) => {
      const id = pick(ids);
      const model = page.list.get(id);
      const chance = random();
      if (chance < 0.1) return page.handle.sync('delete', { id });
      if (chance < 0.15) return page.handle.sync('create', { text: 'new' }).then((made) => ids.push(made.id));
      if (chance < 0.3) return page.handle.sync('update', { id, text: pick(['x', 'xy']), ...(random() < 0.5 && { extra: random() }) });
      const patch = { $append: { text: pick(['a', 'é', '😀']) }, $inc: { n: 1 } };
      if (chance < 0.6 && model) return model.save(patch, { patch: true });
      return page.handle.sync('patch', { id, ...(chance < 0.8 ? patch : { n: Math.floor(random() * 9) }) });
    };
    for (let step = 0; step < 60; step += 1) {
      const chance = random();
      if (chance < 0.06) proxy.cut();
      else {
        const made = chance < 0.1 ? fetched(pages[1].list, { slow: 0.05 }) : write(pick(pages));
        // Some are of what is gone by then.
        waiting.push(Promise.resolve(made).catch(() => {}));
      }
      if (random() < 0.4) await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await Promise.all(waiting);
    const text = (models) => JSON.stringify(contents({ toJSON: () => models.map((model) => Object.fromEntries(Object.entries(model).sort())) }));
    const expected = text(await writer.handle.sync('read'));
    await until(() => pages.every(({ list }) => text(list.toJSON()) === expected));
    for (const [n, query] of queries.entries()) {
      const { models } = await writer.handle.query(query);
      await until(() => JSON.stringify(first[n].models.map(({ id }) => id)) === JSON.stringify(models.map(({ id }) => id)) && text(first[n].models) === text(models));
    }
    assert.ok(patches(pages[1].heard).length > 0);
  });
}
