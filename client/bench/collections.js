/**
 * What a bound collection costs beside the same work without bbio's care for it. Rounds of both alternate in one process, so
 * that their ratio says something on a busy machine too: `npm run bench`, or `make bench`. Fails when a bar is exceeded.
 *
 * The network is left out: the answer of a server is parsed from its text, as Socket.IO does, and handed over.
 */
import '../dist/backbone.io.min.js';
import { loadBackbone } from '../test/support.js';

const MODELS = 10_000;
const EVENTS = 2_000;
const ROUNDS = Number(process.env.ROUNDS ?? 15);

/** What is measured: `ours` and `theirs` are CPU milliseconds, taken in turn; their medians must not be further apart than `bar`. */
const LINES = [
  { text: `a second fetch of ${MODELS} models, bound: x unbound`, bar: 1.5, make: () => refetch(false) },
  { text: `a fetch of ${MODELS} models that have changed, bound: x unbound`, bar: 1.5, make: () => refetch(true) },
  { text: `${EVENTS} missed updates of ${MODELS} models: x a plain set`, bar: 2, make: () => missed('update') },
  { text: `${EVENTS} missed creates beside ${MODELS} models: x a plain set`, bar: 2, make: () => missed('create') },
];

const record = (n, v = n) => ({ id: `m${n}`, title: `task ${n}`, v, done: false, tags: ['a', 'b'], where: { x: v } });
const range = (from, to, make) => Array.from({ length: to - from }, (_, n) => make(from + n));

/** A Backbone whose server is right here: it answers with what `server` says at the moment. */
function pageOf(server) {
  const Backbone = loadBackbone();
  const handlers = new Map();
  const socket = {
    active: true,
    connected: false,
    on: (event, handler) => handlers.set(event, handler),
    off: () => handlers.clear(),
    connect() {},
    disconnect() {},
    emit(event, ...args) {
      const ack = args.pop();
      if (event === 'sync') ack(...JSON.parse(server.read));
      else if (event === 'listen') ack(JSON.parse(server.listened));
    },
    become(connected) {
      socket.connected = connected;
      handlers.get(connected ? 'connect' : 'disconnect')?.('transport close');
    },
  };
  globalThis.io = () => ({ io: { uri: 'here', engine: { readyState: 'open' }, socket: () => socket } });
  globalThis.bbio.attach(Backbone).connect('here');
  return { Backbone, socket };
}

const reply = (events, offset) => ({
  v: 1,
  event: 'backend',
  streams: { 'c:': { epoch: 'e', offset, recovered: true, events }, '*': { epoch: 'e', offset: 0, recovered: true, events: [] } },
});

/** A server that holds `models`, and a collection of a page that is connected to it. */
function world(models, bound) {
  let rev = 0;
  const server = { offset: 0, hold: (held) => { server.read = JSON.stringify([null, held, { r: held.map(() => (rev += 1)) }]); } };
  server.hold(models);
  const tell = (events) => {
    server.listened = JSON.stringify(reply(events, server.offset));
  };
  tell([]);
  server.miss = (method, held) => tell(held.map((model) => [method, model, { s: 'c:', e: 'e', o: (server.offset += 1), r: (rev += 1) }]));
  const { Backbone, socket } = pageOf(server);
  const collection = new (Backbone.Collection.extend({ backend: 'things' }))();
  if (bound) collection.bindBackend();
  socket.become(true);
  collection.fetch();
  return { server, socket, collection };
}

/** CPU milliseconds that something takes. */
function cpu(run) {
  globalThis.gc?.();
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** The same models again, or with other content each time. */
function refetch(changing) {
  const worlds = { ours: world(range(0, MODELS, record), true), theirs: world(range(0, MODELS, record), false) };
  const measure = ({ server, collection }, round) => {
    if (changing) server.hold(range(0, MODELS, (n) => record(n, n + round)));
    return cpu(() => collection.fetch());
  };
  return { ours: (round) => measure(worlds.ours, round), theirs: (round) => measure(worlds.theirs, round) };
}

/** Events that come with the answer to a listen, beside the same models set by hand. */
function missed(method) {
  const { server, socket, collection } = world(range(0, MODELS, record), true);
  const plain = new (loadBackbone().Collection)(range(0, MODELS, record));
  let next = MODELS;
  const batch = (round) => {
    if (method === 'update') return range(0, EVENTS, (n) => record(n * 5, n + round));
    next += EVENTS;
    return range(next - EVENTS, next, record);
  };
  let told = [];
  return {
    ours(round) {
      told = batch(round);
      socket.become(false);
      server.miss(method, told);
      const spent = cpu(() => socket.become(true));
      const model = collection.get(told.at(-1).id);
      if (model?.get('v') !== told.at(-1).v) throw new Error(`the last ${method} has not been applied`);
      if (method === 'create') collection.remove(told);
      return spent;
    },
    theirs() {
      const text = JSON.stringify(told);
      const spent = cpu(() => plain.set(JSON.parse(text), { remove: false }));
      if (method === 'create') plain.remove(told);
      return spent;
    },
  };
}

const middle = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

let exceeded = 0;
for (const { text, bar, make } of LINES) {
  const { ours, theirs } = make();
  const taken = { ours: [], theirs: [] };
  // The first rounds are for the compiler.
  for (let round = -3; round < ROUNDS; round += 1) {
    const spent = [ours(round), theirs(round)];
    if (round >= 0) taken.ours.push(spent[0]), taken.theirs.push(spent[1]);
  }
  const ratio = middle(taken.ours.map((one, n) => one / taken.theirs[n]));
  exceeded += Number(ratio > bar);
  console.log(`${ratio > bar ? 'MISSED' : 'ok    '} ${ratio.toFixed(2).padStart(5)} (<= ${bar}) ${text}; ${middle(taken.ours).toFixed(1)} and ${middle(taken.theirs).toFixed(1)} ms`);
}
process.exitCode = exceeded > 0 ? 1 : 0;
