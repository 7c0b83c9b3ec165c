/** Random schedules of writes, cuts, lost and late packets and lost history: every collection ends up like the store. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { attach } from '../src/backbone.js';
import { loadBackbone } from './support.js';
import { seeded, World } from './world.js';

const SCHEDULES = Number(process.env.BBIO_SCHEDULES ?? 300);
const STEPS = 250;

/** Let promises that are ready go on. */
const settle = async () => {
  for (let n = 0; n < 8; n += 1) await Promise.resolve();
};

/** A page: collections of some channels over one socket. */
function page(world, channels) {
  const Backbone = loadBackbone();
  const connection = attach(Backbone, () => world.io).connect('sim');
  const collections = channels.map((channel) => new Backbone.Collection([], { backend: { name: 'things', channel } }).bindBackend());
  const fetch = (collection) => collection.fetch({ error: () => fetch(collection) });
  collections.forEach(fetch);
  return { connection, collections };
}

/** One write, chosen at random; every write must be answered exactly once. */
function write(random, collection, answers) {
  const answer = { times: 0 };
  answers.push(answer);
  const options = { wait: random() < 0.3, success: () => (answer.times += 1), error: () => (answer.times += 1) };
  const title = random() < 0.1 ? 'bad' : `t${Math.floor(random() * 1000)}`;
  const saved = collection.filter((model) => !model.isNew());
  const model = saved[Math.floor(random() * saved.length)];
  const kind = random();
  if (!model || kind < 0.4) collection.create({ title, n: random() }, options);
  else if (kind < 0.6) model.save({ title }, options);
  else if (kind < 0.8) model.save({ title }, { ...options, patch: true });
  else model.destroy(options);
}

/** One thing happens. */
function step(random, world, pages, answers) {
  const kind = random();
  const link = world.links[Math.floor(random() * world.links.length)];
  const { collections } = pages[Math.floor(random() * pages.length)];
  if (kind < 0.12) write(random, collections[Math.floor(random() * collections.length)], answers);
  else if (kind < 0.4) world.serve(link);
  else if (kind < 0.7) link.receive();
  else if (kind < 0.76) link.up();
  else if (kind < 0.79) link.late.length > 0 && link.toClient.push(link.late.shift());
  else if (kind < 0.82) link.cut(random() < 0.3 ? 'io server disconnect' : 'transport close');
  else if (kind < 0.86) world.broadcast(`shared${Math.floor(random() * 3)}`);
  else if (kind < 0.865) world.renew(['*', 'c:x', 'c:'][Math.floor(random() * 3)]);
  else if (kind < 0.95) mock.timers.tick(Math.floor(random() * 1500));
}

/** Everything works again: let all that is under way arrive. */
async function heal(world) {
  world.late = 0;
  world.lossy = false;
  for (let round = 0; round < 60; round += 1) {
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
  const pages = [page(world, ['x']), page(world, ['x', '']), page(world, [''])];
  const answers = [];
  for (let n = 0; n < STEPS; n += 1) {
    step(random, world, pages, answers);
    await settle();
  }
  await heal(world);
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

test(`collections equal the store after any of ${SCHEDULES} schedules`, async () => {
  mock.timers.enable({ apis: ['setTimeout'] });
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
    mock.timers.reset();
  }
});
