/**
 * A server and a network in which everything that can go wrong does, as a seeded random number says.
 *
 * The server follows docs/protocol.md: streams with epochs and bounded history, operation ids, revisions, conflicts.
 * Time stands still unless the schedule moves it, so a schedule can be run again from its seed.
 */

/** mulberry32: small, seedable, good enough to choose by. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const clone = (value) => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));
const refuse = (name, fields = {}) => [{ error: { name, message: name, ...fields } }];

/** One namespace connection: the client's half looks like Socket.IO's socket, the queues are the network. */
class Link {
  connected = false;
  active = false;
  toServer = [];
  toClient = [];
  late = [];
  channels = new Set();
  #handlers = new Map();

  /** Whether it has died without a sign: what is sent over it arrives nowhere. */
  dead = false;

  constructor(world, user) {
    this.world = world;
    this.user = user;
    world.links.push(this);
  }

  on(event, handler) {
    this.#handlers.set(event, handler);
  }

  off() {
    this.#handlers.clear();
  }

  tell(event, ...args) {
    this.#handlers.get(event)?.(...args);
  }

  connect() {
    this.active = true;
  }

  disconnect() {
    this.active = false;
    this.cut('io client disconnect');
  }

  emit(event, ...args) {
    const ack = args.pop();
    if (!this.dead) this.toServer.push([event, clone(args), ack]);
  }

  /** The network forgets it, and neither side is told. */
  die() {
    this.dead = true;
    this.toServer = [];
    this.toClient = [];
    this.late = [];
  }

  cut(reason) {
    if (!this.connected) return;
    this.connected = this.dead = false;
    this.toServer = [];
    this.toClient = [];
    this.late = [];
    this.channels.clear();
    if (reason === 'io server disconnect') this.active = false;
    this.tell('disconnect', reason);
  }

  up() {
    if (this.connected || !this.active) return;
    this.connected = true;
    this.tell('connect');
  }

  /** The client takes what arrived first. */
  receive() {
    this.toClient.shift()?.();
  }

  send(...args) {
    const copy = clone(args);
    if (!this.dead) this.toClient.push(() => this.tell(...copy));
  }

  /** Answer now, or at some later time that the schedule chooses. */
  answer(ack, args, late) {
    const copy = clone(args);
    if (this.dead) return;
    (late ? this.late : this.toClient).push(() => ack(...copy));
  }
}

export class World {
  links = [];
  /** Effects by operation id, and by what only one create carries; each must be 1. */
  effects = new Map();
  /** Writes that came as somebody else's. */
  strangers = 0;
  /** Models that a read without a limit may find, and models of a page. */
  most = 10_000;
  page = 1000;
  /** Whether nobody is ever told by Socket.IO that a link has died. */
  silent = false;
  #stores = new Map();
  #logs = new Map();
  #ops = new Map();
  #rev = 0;
  #ids = 0;
  #epochs = 0;

  /** @param {() => number} random */
  constructor(random) {
    this.random = random;
    this.history = [3, 8, 40][Math.floor(random() * 3)];
    this.lossy = random() < 0.3;
    this.busy = random() < 0.3 ? 0.5 : 0;
    this.late = random() < 0.5 ? 0 : 0.3;
    if (random() < 0.3) [this.most, this.page] = [3, 2];
    this.silent = random() < 0.5;
  }

  /** What Socket.IO's `io` is to a client. */
  io = () => ({ io: { uri: 'sim', socket: (_, options) => new Link(this, options?.auth?.user) } });

  store(channel) {
    if (!this.#stores.has(channel)) this.#stores.set(channel, new Map());
    return this.#stores.get(channel);
  }

  log(stream) {
    if (!this.#logs.has(stream)) this.#logs.set(stream, { epoch: `e${(this.#epochs += 1)}`, top: 0, events: [] });
    return this.#logs.get(stream);
  }

  /** A stream's history is lost: a new epoch begins. */
  renew(stream) {
    this.#logs.delete(stream);
    for (const link of this.links) if (link.connected) link.cut('transport close');
  }

  publish(stream, method, model, rev, op, { skip, certain } = {}) {
    const log = this.log(stream);
    const meta = { s: stream, e: log.epoch, o: (log.top += 1), r: rev, ...(op && { op: `${op.c}:${op.n}` }) };
    log.events.push(clone([method, model, meta]));
    if (log.events.length > this.history) log.events.shift();
    for (const link of this.links) {
      const follows = stream === '*' ? link.channels.size > 0 : link.channels.has(stream);
      const lost = this.lossy && !certain && this.random() < 0.1;
      if (link.connected && follows && link !== skip && !lost) link.send('synced', method, model, meta);
    }
    return meta;
  }

  /** A write by the server itself, told to every channel. */
  broadcast(id, certain = false) {
    const rev = (this.#rev += 1);
    const model = { id, from: 'server', rev };
    const known = this.channels.every((channel) => this.store(channel).has(id));
    for (const channel of this.channels) this.store(channel).set(id, { rev, model });
    this.publish('*', known ? 'update' : 'create', model, rev, undefined, { certain });
  }

  channels = ['x', ''];

  /** The server takes what arrived first on a link. */
  serve(link) {
    const message = link.toServer.shift();
    if (!message) return;
    const [event, args, ack] = message;
    if (event === 'listen') this.#listen(link, args, ack);
    else if (event === 'unlisten') this.#unlisten(link, args[0], ack);
    else this.#sync(link, args[0], ack);
  }

  #listen(link, [channel, { since, user }], ack) {
    if (this.random() < this.busy) {
      const [name, code] = this.random() < 0.5 ? ['Unavailable', 503] : ['Timeout', 408];
      link.answer(ack, [{ error: { name, code, retry_after: 0.5 } }]);
      return;
    }
    const streams = {};
    for (const stream of [`c:${channel ?? ''}`, '*']) {
      const { epoch, top, events } = this.log(stream);
      const [e, o] = since[stream] ?? [];
      const recovered = e === epoch && o <= top && top - o <= events.length;
      streams[stream] = { epoch, offset: top, recovered, events: recovered ? events.slice(events.length - (top - o)) : [] };
    }
    link.channels.add(`c:${channel ?? ''}`);
    link.answer(ack, [{ event: 'backend', v: 1, streams, ...(user && { user: link.user }) }]);
  }

  #unlisten(link, channels, ack) {
    for (const channel of channels) link.channels.delete(`c:${channel ?? ''}`);
    link.answer(ack, [null]);
  }

  #sync(link, { method, model, channel, op, rev, options }, ack) {
    if (!link.channels.has(`c:${channel ?? ''}`)) throw new Error('a sync came before the listen had succeeded, and is refused for good');
    const store = this.store(channel ?? '');
    const late = this.random() < this.late;
    if (method === 'read') {
      link.answer(ack, this.#read([...store.values()], options?.data ?? {}), late);
      return;
    }
    const key = `${op.c}:${op.n}`;
    // Who the client is counts, too.
    const stored = this.#ops.get(`${link.user}/${key}`);
    if (stored) {
      link.answer(ack, stored, late);
      return;
    }
    if (method !== 'delete' && model.by !== link.user) this.strangers += 1;
    const known = store.get(model.id);
    if (model.title === 'bad' && method !== 'delete') link.answer(ack, refuse('Invalid', { code: 422 }), late);
    else if (method !== 'create' && !known) link.answer(ack, refuse('NotFound', { code: 404 }), late);
    else if (rev !== undefined && rev < known.rev) {
      link.answer(ack, refuse('Conflict', { code: 409, current: known.model, rev: known.rev }), late);
    } else this.#commit(link, store, { method, model, channel, op, key }, ack, late);
  }

  #read(all, { $limit, $cursor }) {
    if ($limit === undefined && all.length > this.most) return refuse('BadRequest', { code: 400, page_limit: this.page });
    if ($limit === undefined) return [null, all.map((one) => one.model), { r: all.map((one) => one.rev) }];
    const rest = all.filter(({ model }) => $cursor === undefined || model.id > $cursor).sort((a, b) => (a.model.id < b.model.id ? -1 : 1));
    const found = rest.slice(0, $limit);
    const next = rest.length > found.length ? found.at(-1).model.id : null;
    return [null, found.map((one) => one.model), { r: found.map((one) => one.rev), next }];
  }

  #commit(link, store, { method, model, channel, op, key }, ack, late) {
    const known = store.get(model.id)?.model;
    const record = { create: { ...model, id: `m${(this.#ids += 1)}` }, update: model, patch: { ...known, ...model }, delete: known }[method];
    const rev = (this.#rev += 1);
    if (method === 'delete') store.delete(model.id);
    else store.set(record.id, { rev, model: record });
    for (const effect of [key, ...(method === 'create' ? [`create of ${model.n}`] : [])]) {
      this.effects.set(effect, (this.effects.get(effect) ?? 0) + 1);
    }
    // A reply at the event's own place in the order stands for the event.
    const inPlace = !late && this.random() < 0.5;
    const before = link.toClient.length;
    const told = method === 'patch' ? 'update' : method;
    const meta = this.publish(`c:${channel ?? ''}`, told, record, rev, op, { skip: inPlace ? link : undefined });
    const reply = [null, record, meta];
    this.#ops.set(`${link.user}/${key}`, clone(reply));
    link.answer(ack, reply, late);
    if (!late && link.toClient.length > before + 1) link.toClient.splice(before, 0, link.toClient.pop());
  }
}
