/**
 * Random schedules of writes, cuts, lost and late packets, lost history, links that die silently, log-ins, also such
 * as nobody has said to the page, listeners and callbacks that throw, and writes of models that have no id yet: every collection ends up like the store.
 */
import assert from 'node:assert/strict';
import { mock } from 'node:test';
import { attach } from '../src/backbone/attach.js';
import { loadBackbone, test } from './support.js';
import { seeded, World } from './world.js';

const SCHEDULES = Number(process.env.BBIO_SCHEDULES ?? 300);
const STEPS = 250;

/** Milliseconds that a schedule may take. */
const LONGEST = 2000;

/** Let promises that are ready go on. */
const settle = async () => {
  for (let n = 0; n < 8; n += 1) await Promise.resolve();
};

/** What applications do at times. */
function stumble(random) {
  if (random() < 0.05) throw new Error('listener');
}

/** A page: collections of some channels over one socket. */
function page(world, channels) {
  const Backbone = loadBackbone();
  const links = [];
  const io = () => {
    const manager = { ...world.io().io };
    const { socket } = manager;
    manager.socket = (...args) => links[links.push(socket(...args)) - 1];
    return { io: manager };
  };
  const api = attach(Backbone, () => io);
  const user = { name: 'ann' };
  api.connect('sim', { auth: { user: user.name } });
  const { connection } = api;
  const collections = channels.map((channel) => new Backbone.Collection([], { backend: { name: 'things', channel } }).bindBackend());
  const fetch = (collection) => collection.fetch({ error: () => fetch(collection) });
  for (const [n, collection] of collections.entries()) {
    connection.backend('things', { channel: channels[n] }).on('synced', () => stumble(world.random));
    collection.on('all', (event, ...args) => {
      const remote = event.startsWith('backend') || args.at(-1)?.remote;
      if (remote) stumble(world.random);
    });
  }
  collections.forEach(fetch);
  const login = (name, queue = world.random() < 0.5 ? 'keep' : 'drop') => {
    user.name = name;
    api.connect('sim', { auth: { user: name }, queue });
  };
  const handles = channels.map((channel) => connection.backend('things', { channel }));
  // At the next connection it is somebody else; the server knows, and has to tell it.
  const turn = (name) => {
    if (handles.some(({ knownAs }) => knownAs === undefined)) return;
    links.at(-1).user = name;
    links.at(-1).cut('transport close');
  };
  const writer = (collection) => handles[collections.indexOf(collection)].knownAs ?? user.name;
  // Who has never been told the server's version cannot ask it whether it is there.
  const probes = () => world.silent && handles.some(({ follower }) => follower.positioned);
  const look = () => handles[0].sync('read').catch(() => {});
  return { connection, collections, user, login, turn, writer, links, probes, look };
}

/** One write, chosen at random; every write must be answered exactly once. */
function write(random, { writer }, collection, answers) {
  const model = collection.at(Math.floor(random() * collection.length));
  const by = writer(collection);
  const answer = { times: 0 };
  answers.push(answer);
  const answered = () => {
    answer.times += 1;
    stumble(random);
  };
  const options = { wait: random() < 0.3, success: answered, error: answered };
  const title = random() < 0.1 ? 'bad' : `t${Math.floor(random() * 1000)}`;
  const kind = random();
  if (!model || kind < 0.4) collection.create({ title, n: random(), by }, options);
  else if (kind < 0.6) model.save({ title, by }, options);
  else if (kind < 0.8) model.save({ title, by }, { ...options, patch: true });
  else model.destroy(options);
}

/** One thing happens. */
function step(random, world, pages, answers) {
  const kind = random();
  const link = world.links[Math.floor(random() * world.links.length)];
  const chosen = pages[Math.floor(random() * pages.length)];
  const { collections } = chosen;
  if (kind < 0.12) write(random, chosen, collections[Math.floor(random() * collections.length)], answers);
  else if (kind < 0.4) world.serve(link);
  else if (kind < 0.7) link.receive();
  else if (kind < 0.76) link.up();
  else if (kind < 0.79) link.late.length > 0 && link.toClient.push(link.late.shift());
  else if (kind < 0.82) link.cut(random() < 0.3 ? 'io server disconnect' : 'transport close');
  else if (kind < 0.86) world.broadcast(`shared${Math.floor(random() * 3)}`);
  else if (kind < 0.865) world.renew(['*', 'c:x', 'c:'][Math.floor(random() * 3)]);
  else if (kind < 0.872) link.connected && link.die();
  else if (kind < 0.876) chosen.login(random() < 0.5 ? 'ann' : 'bob');
  else if (kind < 0.88) chosen.turn(random() < 0.5 ? 'ann' : 'bob');
  else if (kind < 0.95) mock.timers.tick(Math.floor(random() * 1500));
}

/** Everything works again: let all that is under way arrive. */
async function heal(world, pages) {
  world.late = 0;
  world.lossy = false;
  // Over a link that has died, something is asked for: that is how it shows.
  for (const { look } of pages) look();
  for (let round = 0; round < 60; round += 1) {
    // Socket.IO finds out in the end, or would.
    if (round === 20) for (const { links, probes } of pages) if (!probes()) for (const link of links) if (link.dead) link.cut('ping timeout');
    // A lost packet shows when the next one comes.
    if (round % 20 === 5) world.broadcast('last', true);
    for (const channel of world.channels) if (round % 20 === 5) world.publish(`c:${channel}`, 'delete', { id: 'never' }, undefined, undefined, { certain: true });
    for (const link of world.links) {
      link.up();
      for (let n = 0; n < 60 && (link.toServer.length || link.toClient.length || link.late.length); n += 1) {
        if (link.late.length) link.toClient.push(link.late.shift());
        world.serve(link);
        link.receive();
        await settle();
      }
    }
    mock.timers.tick(1000);
    await settle();
  }
}

async function run(seed) {
  const random = seeded(seed);
  const world = new World(random);
  world.reports = [];
  globalThis.reportError = (err) => err.message === 'listener' || world.reports.push(err);
  const pages = [page(world, ['x']), page(world, ['x', '']), page(world, [''])];
  const answers = [];
  for (let n = 0; n < STEPS; n += 1) {
    step(random, world, pages, answers);
    await settle();
  }
  // Who had left comes back, so that nothing is kept for them.
  for (const [name, queue] of [['bob'], ['ann'], ['bob', 'drop'], ['ann', 'drop']]) {
    for (const { user, login } of pages) if (name !== user.name) login(name, queue);
    await heal(world, pages);
  }
  // Nobody logs in after this: whose link dies now must find out.
  for (const link of world.links) {
    // Some have just come back, and asked for their channels.
    if (random() < 0.3) {
      link.cut('transport close');
      link.up();
    }
    if (random() < 0.5 && link.connected) link.die();
  }
  await heal(world, pages);
  assert.equal(world.strangers, 0, 'writes as somebody else');
  assert.deepEqual(world.reports, [], 'what was thrown besides');
  for (const { collections } of pages) {
    for (const collection of collections) {
      const held = [...world.store(collection.backend.channel).values()].map(({ model }) => model);
      const byId = (a, b) => (a.id < b.id ? -1 : 1);
      assert.deepEqual(collection.toJSON().sort(byId), held.sort(byId), `collection of channel ${JSON.stringify(collection.backend.channel)}`);
    }
  }
  for (const [op, times] of world.effects) assert.equal(times, 1, `effects of ${op}`);
  for (const { times } of answers) assert.equal(times, 1, 'answers to a write');
  for (const { connection } of pages) connection.close();
}

/** How far the clock on the wall was set, in milliseconds. */
let set = 0;

/** Stop time: it goes by as a test says. */
function stopTime() {
  set = 0;
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_700_000_000_000 });
  mock.method(performance, 'now', () => Date.now() - set);
}

/** Set the clock on the wall; nothing goes by. */
function setClock(by) {
  set += by;
  mock.timers.setTime(Date.now() + by);
}

/** Let time go by again. */
function startTime() {
  mock.timers.reset();
  performance.now.mock.restore();
}

test(`collections equal the store after any of ${SCHEDULES} schedules`, { timeout: SCHEDULES * LONGEST }, async () => {
  stopTime();
  const { random } = Math;
  const first = Number(process.env.BBIO_SEED ?? 1);
  try {
    for (let seed = first; seed < first + SCHEDULES; seed += 1) {
      Math.random = seeded(seed);
      await run(seed).catch((err) => {
        err.message = `schedule ${seed}: ${err.message}`;
        throw err;
      });
    }
  } finally {
    Math.random = random;
    startTime();
    delete globalThis.reportError;
  }
});

test('a collection of 20,000 models is fetched and read anew, page by page, while others write', async () => {
  stopTime();
  try {
    const world = new World(seeded(1));
    // Nothing is left to chance: no listener throws.
    Object.assign(world, { most: 10_000, page: 1000, history: 3, late: 0, lossy: false, silent: false, random: () => 0.5 });
    const fill = (from, to) => {
      for (let n = from; n < to; n += 1) world.store('x').set(`s${n}`, { rev: n + 1, model: { id: `s${n}`, n } });
    };
    fill(0, 20_000);
    const one = page(world, ['x']);
    await heal(world, [one]);
    assert.equal(one.collections[0].length, 20_001);
    for (const link of world.links) link.die();
    world.store('x').clear();
    fill(10_000, 30_000);
    world.renew('c:x');
    one.collections[0].at(0).save({ n: 'gone' });
    await heal(world, [one]);
    const held = [...world.store('x').values()].map(({ model }) => model);
    const byId = (a, b) => (a.id < b.id ? -1 : 1);
    assert.deepEqual(one.collections[0].toJSON().sort(byId), held.sort(byId));
    one.connection.close();
  } finally {
    startTime();
  }
});

/** Bring each link up, and pass on what is on it. */
async function passOn(world) {
  for (const link of world.links) {
    link.up();
    for (let n = 0; n < 20; n += 1) {
      world.serve(link);
      link.receive();
      await settle();
    }
  }
}

/** A page of one channel in a world without chance, with time stopped while `run` goes on. */
async function calmly(run) {
  stopTime();
  try {
    const world = new World(seeded(1));
    Object.assign(world, { history: 40, most: 20_000, late: 0, lossy: false, busy: 0, random: () => 0.5 });
    const one = page(world, ['x']);
    await passOn(world);
    await run(world, one, one.collections[0]);
    one.connection.close();
  } finally {
    startTime();
  }
}

/** Let seconds go by. */
async function pass(world, seconds) {
  for (let second = 0; second < seconds; second += 1) {
    mock.timers.tick(1000);
    await settle();
    await passOn(world);
  }
}

test('a write whose answer is lost while its user becomes another, on the same link, is of unknown outcome', () => calmly(async (world, { links: [link] }, collection) => {
  const outcome = new Promise((resolve) => collection.create({ title: 't1', by: 'ann' }, { error: (_, err) => resolve(err.name) }));
  link.toServer = [];
  link.user = 'bob';
  link.send('resync', 'c:x');
  await passOn(world);
  await pass(world, 9);
  assert.deepEqual([await outcome, collection.length, world.strangers], ['UnknownOutcome', 0, 0]);
}));

test('an edit made on a link that has died is stored within fifteen seconds, and nothing is taken back', () => calmly(async (world, { links: [link] }, collection) => {
  link.die();
  const removed = [];
  collection.on('remove error', (model) => removed.push(model));
  const model = collection.create({ title: 't1', n: 1, by: 'ann' });
  await pass(world, 15);
  assert.equal(model.isNew(), false);
  assert.deepEqual([world.store('x').size, removed], [1, []]);
}));

test('time stands still for a write whose link was lost before the server let the page listen', () => calmly(async (world, { connection, links: [link] }) => {
  const write = connection.backend('things', { channel: 'y' }).sync('create', { title: 't1', n: 1, by: 'ann' });
  link.cut('transport close');
  for (let second = 0; second < 100; second += 1) {
    mock.timers.tick(1000);
    await settle();
  }
  await Promise.all([write, pass(world, 10)]);
  assert.equal(world.store('y').size, 1);
}));

/** Another client writes. */
function writeElsewhere(world, id) {
  const model = { id };
  world.store('x').set(id, { rev: 1, model });
  world.publish('c:x', 'create', model, 1, undefined, { certain: true });
}

test('a listen that is lost on its way is sent again on the same link', () => calmly(async (world, { links }, collection) => {
  const [link] = links;
  link.send('resync', 'c:x');
  link.receive();
  mock.timers.tick(1000);
  assert.deepEqual(link.toServer.splice(0).map(([event]) => event), ['listen']);
  await pass(world, 10);
  writeElsewhere(world, 'new');
  await passOn(world);
  assert.deepEqual([links.length, collection.pluck('id')], [1, ['new']]);
}));

test('a link that has died is found out by a listen that is not answered', () => calmly(async (world, { links }, collection) => {
  const [link] = links;
  link.send('resync', 'c:x');
  link.receive();
  link.die();
  writeElsewhere(world, 'missed');
  await pass(world, 15);
  assert.deepEqual([links.length, collection.pluck('id')], [2, ['missed']]);
}));

/** How many seconds go by until a page opens another link; those given if it does not. */
function givenUpAfter({ links }, longest) {
  for (let second = 0; second < longest; second += 1) {
    if (links.length > 1) return second;
    mock.timers.tick(1000);
  }
  return longest;
}

/** What a page waits for, and when a link that has died is given up. */
const DEAD = [
  ['a write', (things) => void things.sync('create').catch(() => {}), 12],
  ['a read', (things) => void things.sync('read').catch(() => {}), 20],
  ['a read that may take long', (things) => void things.sync('read', {}, { timeout: 100_000 }).catch(() => {}), 44],
  ['a read over a link that had been silent', (things) => (mock.timers.tick(9000), things.sync('read').catch(() => {})), 12],
  ['a read, and a write soon after', (things) => (things.sync('read').catch(() => {}), mock.timers.tick(3000), things.sync('create').catch(() => {})), 12],
  ['more reads than are sent at once, and a write', (things) => {
    for (let n = 0; n < 64; n += 1) things.sync('read').catch(() => {});
    things.sync('create').catch(() => {});
  }, 12],
  ['a read, and a listen', (things, { connection }) => (things.sync('read').catch(() => {}), connection.backend('things', { channel: 'y' })), 20],
];

for (const [what, ask, seconds] of DEAD) {
  test(`a link that has died with ${what} on it is given up after ${seconds} s`, () => calmly(async (world, one) => {
    one.links[0].die();
    ask(one.connection.backend('things', { channel: 'x' }), one);
    assert.equal(givenUpAfter(one, 60), seconds);
  }));
}

test('a link that dies is given up in time, also when the clock was put back', () => calmly(async (world, one) => {
  setClock(-86_400_000);
  one.links[0].die();
  one.connection.backend('things', { channel: 'x' }).sync('read').catch(() => {});
  assert.equal(givenUpAfter(one, 60), 20);
}));

test('a long list on a slow link arrives, and a link that dies after it is found out', () => calmly(async (world, one, collection) => {
  const [link] = one.links;
  world.store('x').set('m1', { rev: 1, model: { id: 'm1' } });
  const fetched = collection.fetch();
  world.serve(link);
  // The answer to the probe comes behind the list.
  assert.equal(givenUpAfter(one, 19), 19);
  await passOn(world);
  await fetched;
  assert.deepEqual([one.links.length, collection.pluck('id')], [1, ['m1']]);
  link.die();
  collection.fetch().catch(() => {});
  assert.equal(givenUpAfter(one, 60), 20);
}));

test('the second of two long lists has its time as long as the link lives', () => calmly(async (world, one) => {
  const [link] = one.links;
  const things = one.connection.backend('things', { channel: 'x' });
  const first = things.sync('read');
  things.sync('read').catch(() => {});
  world.serve(link);
  assert.equal(givenUpAfter(one, 13), 13);
  link.receive();
  await first;
  link.die();
  // There is little time left to ask for it again.
  assert.equal(givenUpAfter(one, 60), 15);
}));

test('of what has no answer when the page closes its connection only what was sent is of unknown outcome', () => calmly(async (world, { connection, links }, collection) => {
  const outcome = (title) => new Promise((resolve) => collection.create({ title }, { error: (_, err) => resolve(err.name) }));
  const sent = outcome('sent');
  links[0].cut('transport close');
  const unsent = outcome('unsent');
  connection.close();
  assert.deepEqual(await Promise.all([sent, unsent]), ['UnknownOutcome', 'Unavailable']);
}));

test('news that cannot wait for the end of a read is read', () => calmly(async (world, { links: [link] }, collection) => {
  const fetched = collection.fetch();
  world.serve(link);
  const answer = link.toClient.pop();
  for (let n = 0; n <= 10_000; n += 1) {
    writeElsewhere(world, `m${n}`);
    link.receive();
  }
  link.toClient.push(answer);
  await passOn(world);
  await fetched;
  await passOn(world);
  assert.equal(collection.length, 10_001);
}));

test('a create whose answer comes after everything was read anew is one model', () => calmly(async (world, { links: [link] }, collection) => {
  const model = collection.create({ title: 't1', by: 'ann' });
  world.serve(link);
  world.renew('c:x');
  world.late = 1;
  await passOn(world);
  assert.equal(link.late.length, 2, 'of the create, which was sent again, and of the read');
  for (const answer of [link.late.pop(), link.late.pop()]) {
    link.toClient.push(answer);
    await passOn(world);
  }
  assert.deepEqual([collection.models, world.store('x').size], [[model], 1]);
}));

test('an order that cannot be told does not keep everything from being read anew', () => calmly(async (world, _, collection) => {
  writeElsewhere(world, 'gone');
  await passOn(world);
  collection.comparator = (model) => {
    throw new Error(`no place for ${model.id}`);
  };
  const reset = new Promise((resolve) => collection.once('backend:reset', resolve));
  const reports = [];
  globalThis.reportError = (err) => reports.push(err.message);
  world.store('x').clear();
  for (const id of ['a', 'b']) world.store('x').set(id, { rev: 2, model: { id } });
  world.renew('c:x');
  await passOn(world);
  delete globalThis.reportError;
  assert.deepEqual([(await reset).removed.map(({ id }) => id), collection.pluck('id').sort()], [['gone'], ['a', 'b']]);
  assert.match(reports.join(), /no place for/);
}));
