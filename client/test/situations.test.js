/** Further situations of each kind that pages meet: forms, filters, drags, searches, tabs, phones, log-ins. */
import assert from 'node:assert/strict';
import { contents, loadJQuery, openPage, serveBehindProxy, test, until } from './support.js';

const { server, proxy } = await serveBehindProxy();

const outcome = (promise) => promise.then(() => 'done', (err) => err.name);
const heard = (target, event) => new Promise((resolve) => target.once(event, resolve));
let channels = 0;

/** A new channel: `bound()` makes a collection of it in a page, the same page each time; `handle` is somebody else. */
function place(name = 'board', url = proxy.url, connect = {}) {
  const spec = { name, channel: `situation ${(channels += 1)}` };
  const Backbone = openPage(url, { connect });
  const bound = (more) => new (Backbone.Collection.extend({ backend: spec, ...more }))().bindBackend();
  return { spec, Backbone, bound, handle: openPage(server.url).io.connection.backend(spec.name, spec) };
}

async function offline(collection) {
  const gone = heard(collection, 'remote:offline');
  proxy.refuse = true;
  proxy.cut();
  await gone;
}

/** What is reported while something runs. */
async function reports(run) {
  const told = [];
  globalThis.reportError = (err) => told.push(err.message);
  try {
    await run();
  } finally {
    delete globalThis.reportError;
  }
  return told;
}

// 1. What the application makes of records

test('a class that knows each of its models, and takes none twice, is made once for each record', async () => {
  const { Backbone, bound, handle } = place();
  const known = new Map();
  const register = (model, id) => {
    if (id === undefined) return;
    if (![undefined, model].includes(known.get(id))) throw new Error(`there are two of ${id}`);
    known.set(id, model);
  };
  const Card = Backbone.Model.extend({
    initialize() {
      register(this, this.id);
      this.on('change:id', () => register(this, this.id));
    },
  });
  const cards = bound({ model: Card });
  const told = await reports(async () => {
    const { id } = await handle.sync('create', { title: 'a' });
    await cards.fetch();
    const mine = cards.create({ title: 'mine' });
    await Promise.all([cards.fetch(), until(() => !mine.isNew())]);
    await handle.sync('create', { title: 'b' });
    await handle.sync('patch', { id, title: 'c' });
    await until(() => cards.length === 3 && cards.get(id).get('title') === 'c');
    await offline(cards);
    await handle.sync('delete', { id });
    const { id: last } = await handle.sync('create', { title: 'd' });
    proxy.refuse = false;
    await until(() => cards.get(last));
    await cards.fetch();
    assert.deepEqual([cards.length, cards.get(mine.id) === mine, cards.get(id)], [3, true, undefined]);
  });
  assert.ok(cards.every((model) => known.get(model.id) === model));
  assert.deepEqual(told, []);
});

test('toJSON of the application is asked once for a save, and for nothing that others do', async () => {
  let asked = 0;
  const { Backbone, bound, handle } = place();
  const Note = Backbone.Model.extend({
    toJSON() {
      asked += 1;
      return { ...this.attributes, stamp: asked };
    },
  });
  const notes = bound({ model: Note });
  await notes.fetch();
  const note = notes.create({ title: 'a' });
  await until(() => !note.isNew());
  assert.equal(asked, 1);
  await handle.sync('patch', { id: note.id, title: 'b' });
  await until(() => note.get('title') === 'b');
  assert.equal(await outcome(note.save({ title: 'bad' })), 'Invalid');
  await offline(notes);
  const waiting = note.save({ title: 'c' });
  proxy.refuse = false;
  await waiting;
  await notes.fetch();
  assert.deepEqual([asked, note.get('stamp')], [3, 3]);
});

// 2. User code that throws

test('an order that cannot be told costs no other list a change, and its own no deletion and no event', async () => {
  const { bound, handle } = place();
  const [gone, stays] = [await handle.sync('create', { title: 'a' }), await handle.sync('create', { title: 'b' })];
  const sorted = bound({ comparator: ({ attributes }) => attributes.title.toLowerCase() });
  const other = bound();
  await Promise.all([sorted.fetch(), other.fetch()]);
  const told = [];
  sorted.on('remote', (method) => told.push(method));
  await offline(other);
  const found = await reports(async () => {
    await handle.sync('create', { title: null });
    await handle.sync('delete', { id: gone.id });
    await handle.sync('update', { id: stays.id, title: 'c' });
    proxy.refuse = false;
    await until(() => other.length === 2 && other.get(stays.id).get('title') === 'c');
    assert.equal(await outcome(other.at(0).save({ note: 'n' })), 'done');
  });
  assert.deepEqual([told, sorted.get(gone.id), sorted.get(stays.id).get('title')], [['create', 'delete', 'update', 'update'], undefined, 'c']);
  assert.ok(found.length > 0);
});

test('a remove of the page that throws costs no other model its change', async () => {
  const { bound, handle } = place();
  const [goes, stays] = [await handle.sync('create', { open: true }), await handle.sync('create', { open: true })];
  const list = bound({
    remove() {
      throw new Error('remove');
    },
  });
  await list.fetch({ data: { open: true } });
  await offline(list);
  await handle.sync('patch', { id: goes.id, open: false });
  await handle.sync('patch', { id: stays.id, title: 'b' });
  proxy.refuse = false;
  assert.deepEqual(await reports(() => until(() => list.get(stays.id).get('title') === 'b')), ['remove']);
});

test('a success that throws costs a list that is read nothing of what it must know', async () => {
  const { bound, handle } = place();
  const record = await handle.sync('create', { title: 'a' });
  const list = bound();
  const throwing = () => {
    throw new Error('success');
  };
  assert.deepEqual(await reports(() => list.fetch({ success: throwing })), ['success']);
  const gone = heard(list, 'remote:delete');
  await handle.sync('delete', { id: record.id });
  assert.deepEqual(await gone, record, 'what it was');
});

test('an id that cannot be told of an answer is reported, and the save ends', async () => {
  const { bound, handle } = place();
  const list = bound({
    modelId({ id, signed }) {
      if (signed) throw new Error('id');
      return id;
    },
  });
  await list.fetch();
  const found = await reports(async () => {
    const saved = new list.model({ title: 'a' }, { collection: list }).save();
    assert.equal(await Promise.race([outcome(saved), new Promise((resolve) => setTimeout(resolve, 5000, 'never'))]), 'done');
  });
  assert.deepEqual([...new Set(found)], ['id']);
  assert.equal((await handle.sync('read')).length, 1);
});

test('a set of the page that throws costs no save its end', async () => {
  const { Backbone, bound } = place();
  const { set } = Backbone.Model.prototype;
  const model = Backbone.Model.extend({
    set(key, value, options) {
      if ((typeof key === 'object' ? value : options)?.remote) throw new Error('set');
      return set.call(this, key, value, options);
    },
  });
  const list = bound({ model });
  await list.fetch();
  const made = list.create({ title: 'a' });
  await heard(made, 'sync');
  const found = await reports(async () => {
    const saves = [made.save({ n: 1 }), made.save({ n: 2 })];
    const late = new Promise((resolve) => setTimeout(resolve, 5000, 'never'));
    assert.deepEqual(await Promise.race([Promise.all(saves.map(outcome)), late]), ['done', 'done']);
  });
  assert.deepEqual([found, made.get('n')], [['set'], 2]);
});

test('a promise of jQuery whose handlers throw costs nobody else an answer', async () => {
  const Backbone = openPage(server.url, { $: loadJQuery() });
  const list = new Backbone.Collection([], { backend: { name: 'board', channel: 'jQuery' } }).bindBackend();
  await list.fetch();
  const throwing = (text) => () => {
    throw new Error(text);
  };
  const found = await reports(async () => {
    const done = list.add({ title: 'a' }).save();
    done.done(throwing('done'));
    const failed = list.add({ title: 'bad' }).save();
    failed.fail(throwing('fail'));
    await Promise.all([done, failed].map(outcome));
    await list.add({ title: 'b' }).save();
  });
  assert.deepEqual([found, list.pluck('title')], [['done', 'fail'], ['a', 'b']]);
});

// 4. An own create is assumed to be in its collection

test('a form that is filled in offline, refused and corrected twice makes one record', async () => {
  const { bound, handle } = place();
  const list = bound();
  await list.fetch();
  await offline(list);
  const model = new list.model({ title: 'bad' }, { collection: list });
  const first = outcome(model.save());
  proxy.refuse = false;
  assert.equal(await first, 'Invalid');
  assert.equal(await outcome(model.save({ note: 'n' })), 'Invalid');
  assert.equal(await outcome(model.save({ title: 'good' })), 'done');
  assert.deepEqual([list.length, list.at(0)], [1, model]);
  assert.deepEqual(await handle.sync('read'), [{ id: model.id, title: 'good', note: 'n', signed: true }]);
});

test('a form that is refused and closed leaves nothing, and the next one is made of its own', async () => {
  const { bound, handle } = place();
  const list = bound();
  await list.fetch();
  assert.equal(await outcome(new list.model({ title: 'bad' }, { collection: list }).save()), 'Invalid');
  await new list.model({ title: 'next' }, { collection: list }).save();
  assert.deepEqual([list.pluck('title'), (await handle.sync('read')).length], [['next'], 1]);
});

// 5. A revision is what the instance shows

test('a card dragged to a list and back, and changed by another meanwhile, is a conflict when it is saved', async () => {
  const { bound, handle } = place();
  const { id } = await handle.sync('create', { title: 'x', column: 'todo' });
  const [todo, done] = [bound(), bound()];
  await todo.fetch({ data: { column: 'todo' } });
  await done.fetch({ data: { column: 'done' } });
  const [card] = todo.models;
  todo.remove(card);
  await handle.sync('patch', { id, note: 'theirs' });
  await until(() => todo.get(id)?.get('note') === 'theirs');
  done.add(card);
  assert.equal(await outcome(card.save({ column: 'done' })), 'Conflict');
  assert.deepEqual([done.length, todo.length, todo.at(0).get('column')], [0, 1, 'todo']);
  assert.equal((await handle.sync('read', { id })).note, 'theirs');
});

test('a filter that hides a model and shows it again shows what others have made of it', async () => {
  const { bound, handle } = place();
  const { id } = await handle.sync('create', { title: 'x', open: true });
  const list = bound();
  await list.fetch({ data: { open: true } });
  const [model] = list.models;
  await handle.sync('patch', { id, open: false });
  await until(() => list.length === 0);
  await handle.sync('patch', { id, open: true, title: 'y' });
  await until(() => list.length === 1);
  assert.equal(list.at(0).get('title'), 'y');
  assert.equal(await outcome(list.at(0).save({ note: 'n' })), 'done');
  assert.notEqual(model, list.at(0));
  assert.equal(await outcome(model.save({ title: 'z' })), 'Conflict', 'who has kept the model that left');
});

// 6. One request has one form

test('a filter form that goes on being edited changes no query that was sent', async () => {
  const { bound, handle } = place();
  const list = bound();
  const form = { who: { $in: ['ann'] }, text: undefined };
  const fetched = list.fetch({ data: form });
  form.who.$in.push('bob');
  form.text = 'x';
  await fetched;
  for (const who of ['bob', 'ann']) await handle.sync('create', { who, text: 'y' });
  await until(() => list.length === 1);
  assert.deepEqual(list.pluck('who'), ['ann']);
});

test('what a save sends is what the model was then, however it is edited afterwards', async () => {
  const { bound, handle } = place();
  const list = bound();
  await list.fetch();
  const tags = ['a'];
  const made = list.create({ tags, when: new Date(0) });
  tags.push('b');
  await heard(made, 'sync');
  assert.deepEqual(await handle.sync('read'), [{ id: made.id, tags: ['a'], when: '1970-01-01T00:00:00.000Z', signed: true }]);
  let conflicts = 0;
  list.on('remote:conflict', () => (conflicts += 1));
  made.set('when', new Date(0));
  assert.equal(await outcome(made.save({ title: 'bad' })), 'Invalid');
  assert.deepEqual([new Date(made.get('when')).getTime(), made.has('title'), conflicts], [0, false, 0]);
});

// 7. `backend` as a function is called on its owner

test('a list for each project names its channel by what it was given', async () => {
  const { Backbone, spec, handle } = place('rooms');
  const Tasks = Backbone.Collection.extend({
    initialize: function (_, { project }) { this.project = project; },
    backend() { return { name: 'rooms', channel: this.project }; },
  });
  const [one, two] = [spec.channel, `${spec.channel} b`].map((project) => new Tasks([], { project }).bindBackend());
  await Promise.all([one.fetch(), two.fetch()]);
  two.create({ t: 2 });
  await handle.sync('create', { t: 1 });
  await until(() => one.length === 1 && two.length === 1 && !two.at(0).isNew());
  assert.deepEqual([one.pluck('t'), two.pluck('t')], [[1], [2]]);
});

test('a list whose project is not chosen yet writes to no channel at all', async () => {
  const { Backbone } = place('rooms');
  const Tasks = Backbone.Collection.extend({ backend() { return { name: 'rooms', channel: this.project?.id }; } });
  const tasks = new Tasks();
  for (const act of [() => tasks.bindBackend(), () => tasks.create({ t: 1 }), () => tasks.fetch()]) assert.throws(act, /must be a string/);
  const common = await openPage(server.url).io.connection.backend('rooms').sync('read');
  assert.deepEqual(common.filter(({ t }) => t === 1), []);
});

// 8. Resources end

test('a tab that is left and opened again follows anew, and hears nothing between', async () => {
  const { Backbone, bound, handle } = place('rooms', server.url);
  const first = bound();
  await first.fetch();
  first.unbindBackend();
  await until(() => Backbone.io.connection.backend('rooms', { channel: first.backend.channel }).mirrors.size === 0);
  await handle.sync('create', { t: 1 });
  const again = bound();
  await again.fetch();
  await handle.sync('create', { t: 2 });
  await until(() => again.length === 2);
  assert.equal(first.length, 0);
});

test('of two lists of one channel the one that stays is told when the other goes', async () => {
  const { bound, handle } = place('rooms', server.url);
  const [stays, goes] = [bound(), bound()];
  await Promise.all([stays.fetch(), goes.fetch()]);
  goes.unbindBackend();
  await new Promise((resolve) => setTimeout(resolve));
  await handle.sync('create', { t: 1 });
  await until(() => stays.length === 1);
  assert.equal(goes.length, 0);
});

// 9. The identity of an operation

test('who logs out and in again as the same user keeps what waited, sent once', async () => {
  const { Backbone, bound, handle } = place('board', proxy.url, { user: 'ann' });
  const list = bound();
  await list.fetch();
  await offline(list);
  const model = list.create({ title: 'draft' });
  const saved = model.save({ title: 'final' });
  proxy.refuse = false;
  for (let n = 0; n < 2; n += 1) Backbone.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, user: 'ann' });
  assert.equal(await outcome(saved), 'done');
  assert.deepEqual((await handle.sync('read')).map(({ title }) => title), ['final']);
});

test('a save whose answer is lost while another user logs in is told to be of unknown outcome, and stays one', async () => {
  const { Backbone, bound, handle } = place('board', proxy.url, { user: 'ann' });
  const list = bound();
  await list.fetch();
  proxy.deaf = true;
  const failed = new Promise((resolve) => list.create({ title: 'order' }, { error: (_, err) => resolve(err.name) }));
  await until(async () => (await handle.sync('read')).length === 1);
  proxy.cut();
  Backbone.io.connect(server.url, { transports: ['websocket'], jitter: 20, user: 'bob' });
  assert.ok(['UnknownOutcome', 'Dropped'].includes(await failed));
  await list.fetch();
  assert.deepEqual([(await handle.sync('read')).length, list.pluck('title')], [1, ['order']]);
});

// 10. A create is told as a create

test('a setting that a page saves by its name enters the lists of other pages, also bound by a query', async () => {
  const [mine, theirs] = [server.url, server.url].map((url) => openPage(url)).map((Backbone) => new Backbone.Collection([], { backend: 'upserts' }).bindBackend());
  await mine.fetch();
  await theirs.fetch({ data: { kind: 'setting' } });
  await heard(mine.create({ id: 'theme', kind: 'setting', value: 'dark' }), 'sync');
  await heard(mine.create({ id: 'other', kind: 'draft' }), 'sync');
  await mine.get('theme').save({ value: 'light' });
  await until(() => theirs.length === 1 && theirs.at(0).get('value') === 'light');
  assert.deepEqual(theirs.pluck('id'), ['theme']);
});

test('what a form saves under a name of its own is in the list that it names, unless that is bound by another query', async () => {
  const Backbone = openPage(server.url);
  const [all, drafts, others] = [1, 2, 3].map(() => new Backbone.Collection([], { backend: 'upserts' }).bindBackend());
  await Promise.all([all.fetch(), drafts.fetch({ data: { kind: 'mine' } }), others.fetch({ data: { kind: 'other' } })]);
  for (const [list, id] of [[all, 'f1'], [drafts, 'f2'], [others, 'f3']]) {
    await new list.model({ id, kind: 'mine' }, { collection: list }).save();
  }
  const has = [all.get('f1'), drafts.get('f2'), others.get('f3')].map(Boolean);
  assert.deepEqual(has, [true, true, false]);
});

test('a setting that one list of a page saves by its name is in the page\'s other lists of all, and of those like it', async () => {
  const Backbone = openPage(server.url);
  const [forms, all, settings, drafts] = [1, 2, 3, 4].map(() => new Backbone.Collection([], { backend: { name: 'upserts', channel: 'two lists' } }).bindBackend());
  await Promise.all([forms.fetch(), all.fetch(), settings.fetch({ data: { kind: 'setting' } }), drafts.fetch({ data: { kind: 'draft' } })]);
  const saved = new forms.model({ id: 'size', kind: 'setting' }, { collection: forms });
  await saved.save();
  assert.deepEqual([forms, all, settings, drafts].map((list) => Boolean(list.get('size'))), [true, true, true, false]);
  // To a list that has it not, an update of what is there brings nothing in.
  all.remove('size');
  await saved.save({ value: 2 });
  assert.deepEqual([all.get('size'), settings.get('size').get('value')], [undefined, 2]);
});

test('handlers by hand are told of an upsert as of a create, then of an update', async () => {
  const Backbone = openPage(server.url);
  const list = new Backbone.Collection([], { backend: 'upserts' });
  const told = [];
  list.on('remote', (method, { id }) => id === 'hand' && told.push(method));
  await new Promise((resolve) => list.backend.ready(resolve));
  const handle = openPage(server.url).io.connection.backend('upserts');
  await handle.sync('patch', { id: 'hand', v: 1 });
  await handle.sync('patch', { id: 'hand', v: 2 });
  await until(() => told.length === 2);
  assert.deepEqual(told, ['create', 'update']);
});

// 11. Limits of the wire

test('of what was written offline only the picture that is too large is refused, with its size', async () => {
  const { bound, handle } = place();
  const list = bound();
  await list.fetch();
  await offline(list);
  const refused = new Promise((resolve) => list.create({ picture: 'é'.repeat(600_000) }, { error: (_, err) => resolve(err) }));
  const kept = list.create({ title: 'text' });
  proxy.refuse = false;
  const { name, code, size, limit } = await refused;
  assert.deepEqual([name, code, size > limit, size > 1_200_000], ['BadRequest', 413, true, true]);
  await until(() => !kept.isNew());
  assert.deepEqual([list.pluck('title'), (await handle.sync('read')).length], [['text'], 1]);
});

test('a model that grew too large goes back to what it was, and is saved again when it was made smaller', async () => {
  const { bound, handle } = place();
  const { id } = await handle.sync('create', { text: 'short' });
  const list = bound();
  await list.fetch();
  const [model] = list.models;
  assert.equal(await outcome(model.save({ text: 'x'.repeat(1_100_000) })), 'BadRequest');
  assert.equal(model.get('text'), 'short');
  assert.equal(await outcome(model.save({ text: 'longer' }, { patch: true })), 'done');
  assert.equal((await handle.sync('read', { id })).text, 'longer');
});

// 12. Order

test('a board sorted by place is in order after drags by another, and its own', async () => {
  const { bound, handle } = place();
  const made = [];
  for (let place = 1; place <= 4; place += 1) made.push(await handle.sync('create', { place }));
  const list = bound({ comparator: (model) => model.get('place') });
  await list.fetch();
  await handle.sync('patch', { id: made[3].id, place: 0 });
  await until(() => list.at(0).id === made[3].id);
  await list.at(1).save({ place: 9 });
  list.sort();
  await handle.sync('create', { place: 5 });
  await until(() => list.length === 5);
  assert.deepEqual(list.pluck('place'), [0, 2, 3, 5, 9]);
});

test('a refused change of the place goes back, and so does the order once it is sorted', async () => {
  const { bound, handle } = place();
  for (let place = 1; place <= 3; place += 1) await handle.sync('create', { place });
  const list = bound({ comparator: 'place' });
  await list.fetch();
  assert.equal(await outcome(list.at(0).save({ place: 7, title: 'bad' })), 'Invalid');
  list.sort();
  assert.deepEqual(list.pluck('place'), [1, 2, 3]);
});

test('what happened to one model while the page was away happens to it here step by step, and is told so', async () => {
  const { bound, handle } = place();
  const list = bound();
  await list.fetch();
  const told = [];
  list.on('remote', (method, { n }) => told.push([method, n]));
  list.on('add change:n remove', (model) => told.push(model.get('n')));
  await offline(list);
  const { id } = await handle.sync('create', { n: 1 });
  for (const n of [2, 3]) await handle.sync('patch', { id, n });
  await handle.sync('delete', { id });
  proxy.refuse = false;
  await heard(list, 'remote:resumed');
  assert.deepEqual(told, [1, ['create', 1], 2, ['update', 2], 3, ['update', 3], 3, ['delete', 3]]);
});

// 13. Collections of any size

test('a filtered list that is larger than the server tells at once is fetched whole, and follows', async () => {
  const { bound, handle } = place();
  for (let n = 0; n < 60; n += 1) await handle.sync('create', { n, even: n % 2 === 0 });
  const [all, even] = [bound(), bound()];
  await Promise.all([all.fetch(), even.fetch({ data: { even: true } })]);
  assert.deepEqual([all.length, even.length], [60, 30]);
  await handle.sync('create', { n: 60, even: true });
  await until(() => all.length === 61 && even.length === 31);
});

test('a large list that others write while it is read misses nothing', async () => {
  const { bound, handle } = place();
  for (let n = 0; n < 60; n += 1) await handle.sync('create', { n });
  const list = bound();
  await list.fetch();
  const again = list.fetch();
  const writes = [...Array(10).keys()].map((n) => handle.sync('create', { n: 100 + n }));
  writes.push(handle.sync('delete', { id: list.at(3).id }));
  await Promise.all([again, ...writes]);
  const held = await readAll(handle);
  await until(() => list.length === held.length);
  assert.deepEqual(contents(list), held.sort((a, b) => (JSON.stringify(a.id) < JSON.stringify(b.id) ? -1 : 1)));
});

async function readAll(handle) {
  const found = [];
  for (let cursor; cursor !== null; ) {
    const { models, next } = await handle.query({ limit: 20, ...(cursor && { cursor }) });
    found.push(...models);
    cursor = next;
  }
  return found;
}

// 14. Smaller

test('a search that is aborted leaves the list as it was, and following', async () => {
  const { bound, handle } = place();
  await handle.sync('create', { t: 'a' });
  const list = bound();
  await list.fetch();
  const search = list.fetch({ data: { t: 'b' }, slow: 5 });
  search.abort();
  assert.equal(await outcome(search), 'Aborted');
  await handle.sync('create', { t: 'c' });
  await until(() => list.length === 2);
});

test('a model that another deletes while it is being destroyed here is destroyed once', async () => {
  const { bound, handle } = place();
  const { id } = await handle.sync('create', { t: 'a' });
  const list = bound();
  await list.fetch();
  const [model] = list.models;
  let count = 0;
  model.on('destroy', () => (count += 1));
  await Promise.all([outcome(model.destroy({ slow: 0.1 })), handle.sync('delete', { id })]);
  await handle.sync('create', { t: 'b' });
  await until(() => list.length === 1 && list.at(0).get('t') === 'b');
  assert.equal(count, 1);
});

// 15. Pages of the original: events without bindBackend()

test('a view that listens to a model by hand hears of its change and its deletion, until it is closed', async () => {
  const { Backbone, spec, handle } = place('rooms', server.url);
  const { id } = await handle.sync('create', { t: 1 });
  const Room = Backbone.Model.extend({ backend: spec });
  const model = new Room({ id });
  const view = Object.assign({}, Backbone.Events);
  const told = [];
  view.listenTo(model, 'remote:update', (raw) => told.push(raw.t));
  view.listenTo(model, 'remote:delete', () => told.push('gone'));
  await model.fetch();
  await handle.sync('patch', { id, t: 2 });
  await handle.sync('delete', { id });
  await until(() => told.length === 2);
  view.stopListening();
  const other = await handle.sync('create', { t: 3 });
  await new Room({ id: other.id }).fetch();
  assert.deepEqual(told, [2, 'gone']);
});

test('handlers by hand that add what is there already, as some pages do, keep one of each', async () => {
  const { Backbone, spec, handle } = place('rooms', server.url);
  const list = new Backbone.Collection([], { backend: spec });
  list.on('remote:create remote:update', (raw) => list.add(raw, { merge: true }));
  list.on('remote:delete', ({ id }) => list.remove(id));
  await list.fetch();
  const { id } = await handle.sync('create', { t: 1 });
  await handle.sync('update', { id, t: 2 });
  await handle.sync('create', { t: 3 });
  await until(() => list.length === 2);
  await handle.sync('delete', { id });
  await until(() => list.length === 1);
  assert.deepEqual(list.pluck('t'), [3]);
});

// 16. What the original's objects had

test('a chat of the page goes on over the connection that was lost, with its handlers on once', async () => {
  const Backbone = openPage();
  const socket = Backbone.IO.connect(proxy.url, { transports: ['websocket'], reconnectionDelay: 20, reconnectionDelayMax: 40 });
  const chat = socket.of('chat');
  const lines = [];
  chat.on('heard', (text) => lines.push(text));
  await until(() => chat.connected);
  proxy.cut();
  await until(() => !chat.connected);
  await until(() => chat.connected);
  chat.emit('shout', 'tea');
  await until(() => lines.length);
  await new Promise((resolve) => socket.emit('add', 1, 2, resolve));
  assert.deepEqual(lines, ['TEA']);
});

test('an error of any way to be told is the same one, with what the server said of it', async () => {
  const { bound } = place();
  const list = bound();
  await list.fetch();
  const told = [];
  list.on('error', (_, err) => told.push(err));
  const model = new list.model({ title: 'bad' }, { collection: list });
  const promise = model.save(null, { error: (_, err) => told.push(err) });
  told.push(await promise.catch((err) => err));
  for (const err of told) assert.deepEqual([err.error.fields.title, err.error], ['is bad', told[0]]);
  assert.equal(told.length, 3);
});
