import { Collection } from './collection.js';
import { Emitter } from './emitter.js';
import { setsOf } from './operators.js';
import { SyncError, passing } from './errors.js';
import { Deltas } from './deltas.js';
import { Follower } from './follower.js';
import { clone, copy, plain, same } from './json.js';
import { recall, remember } from './persist.js';
import { Presence } from './presence.js';
import { guarded } from './report.js';

/**
 * Something that mirrors what the backend holds: a bound collection or model.
 *
 * @typedef {object} Mirror
 * @property {(list: News[]) => void} apply take notifications, in order
 * @property {(renewed: boolean) => Promise<void>} reread read everything again and replace what is held
 * @property {(event: string, ...args: any[]) => void} tell trigger an event of the connection
 * @property {Conditions} [wanted] the conditions of the records that it wants to be told of; none: of all
 * @property {(id: any) => import('./deltas.js').Known | undefined} [known] what it knows of a model that it shows, or has shown
 * @property {(id: any, news: News) => boolean} [wants] whether it needs a model that it does not know, of which that has changed
 * @property {{reading: boolean}} [replica] whether it is being read
 *
 * @typedef {{method: string, raw: any, meta?: import('./follower.js').Meta, own?: boolean, acked?: boolean}} News a notification;
 *   `raw` is not to be changed; `own`: of a write of this client; `acked`: of one that was answered before
 *
 * @typedef {{user: string, knownAs?: string | null}} Maker who makes writes, as the page says, and as the server does
 *
 * @typedef {Record<string, any>} Conditions of a query
 *
 * @typedef {object} Page
 * @property {any[]} models
 * @property {string | null} next cursor of the page after this one: pass it as `cursor`, with the same query; null at the end
 * @property {number} [total] how many models the query finds in all, if it says `count: true`
 *
 * @typedef {object} Spec
 * @property {string} method `create`, `read`, `update`, `patch` or `delete`
 * @property {any} [model] the model as JSON
 * @property {Record<string, any>} [options] extras for the server; what is not JSON is left out
 * @property {number} [timeout] milliseconds until the sync fails, online or not
 * @property {number} [rev] revision the write builds on
 * @property {string} [key] the model's id
 * @property {Maker} [maker] who makes it, whoever is connected by default
 * @property {Mirror[]} [origins] the mirrors that made it, and need no telling
 */

/** How another client hears of a write. */
const NOTIFIED_AS = new Map([['create', 'create'], ['update', 'update'], ['patch', 'update'], ['delete', 'delete']]);

const LONGEST_PAUSE = 30_000;

/** How many places of own writes are known again. */
const NOTIFIED = 1000;

/** @param {import('./follower.js').Meta | undefined} meta */
const placeOf = (meta) => `${meta?.s} ${meta?.e} ${meta?.o}`;

/**
 * One backend, in one channel, seen from a client. Made by `connection.backend(name, {channel})`.
 *
 * Events, for `on(event, listener)`: `synced (method, model)` somebody else wrote; `listening` the server answered
 * the listen; `offline`, `online`; `resumed` nothing was missed; `reset` what was missed cannot be told, read again;
 * `message:<name> (data, from)` another client sent a message, `from` is `{key, card}`; `message (name, data, from)` any message;
 * `error (err)` the server refused to let this client listen, or has ended that; `joined (channel)` the server has let this
 * client into another channel of the backend, which nothing here follows yet.
 *
 * @example
 * const todos = connect('http://localhost:3000').backend('todos', { channel: 'home' });
 * todos.on('synced', (method, model) => console.log(method, model));
 * const milk = await todos.sync('create', { title: 'milk' });
 */
export class Handle extends Emitter {
  /** @type {Set<Mirror>} */
  mirrors = new Set();
  /** Prefix of the events a bound collection triggers; the server's choice. */
  prefix = 'backend';
  /** What the server tells its clients, once it has. @type {Record<string, any> | undefined} */
  options = undefined;
  /** Whom the server took this client for when it listened last, null for nobody; undefined as long as that is not known. @type {string | null | undefined} */
  knownAs = undefined;
  /** Key under which positions outlive the page. @type {string | undefined} */
  memory = undefined;
  /** The conditions of the records that the server tells of; undefined: of all; null: it has not said yet. @type {Conditions | null | undefined} */
  told = null;
  /** What the latest listen asked to be told of. @type {Conditions | undefined} */
  #asked = undefined;
  /** What the server did not take. @type {Conditions | undefined} */
  #refused = undefined;
  /** Whether the next listen is made to be told of something else. */
  #isAnew = false;
  /** Mirrors that are to read everything once the server tells of what they want. @type {Set<Mirror>} */
  #due = new Set();
  #isCovering = false;
  /** Readings of single mirrors. @type {WeakMap<Mirror, number>} */
  #turns = new WeakMap();
  /** Whether it can be told what a write changed, in place of the whole record. */
  takesDeltas = true;
  #deltas = new Deltas({
    busy: () => this.follower.stale || [...this.mirrors].some(({ replica }) => replica?.reading),
    known: (id) => [...this.mirrors].flatMap((mirror) => mirror.known?.(id) ?? []),
    wants: (id, news) => this.listeners('synced').length > 0 || [...this.mirrors].some((mirror) => mirror.wants?.(id, news)),
    read: (name, id, done) => void this.request({ method: 'read', model: { [name]: id } }, done),
    tell: (list) => this.notified(list),
    lost: (whole) => {
      if (whole) this.takesDeltas = false;
      this.session.run(this, this.follower.lost());
    },
  });
  /** @type {Presence | undefined} */
  #presence = undefined;
  /** Whether the server lets this client listen, and it may be present so. */
  #attends = false;
  #reading = 0;
  /** Places of writes of this client that all were told of when they were answered; they may come as events yet. */
  #notified = new Set();
  /** Whether the last of those was let go of. */
  #released = false;

  /**
   * @param {import('./session.js').Session} session
   * @param {string | null} channel
   */
  constructor(session, channel) {
    super();
    this.session = session;
    this.name = session.name;
    this.channel = channel;
    /** The same for handles of the same backend and channel, one after the other. */
    this.place = JSON.stringify([this.name, channel]);
    this.follower = new Follower();
  }

  /** Who is present in the channel: `handle.presence.join(state)`. @returns {Presence} */
  get presence() {
    if (!this.#presence) {
      this.#presence = new Presence(this);
      if (this.#attends) this.#presence.listened(false);
    }
    return this.#presence;
  }

  /**
   * Send a message to the channel's other listeners, who are told now or never: they get `message:<name> (data, from)`.
   * @param {string} name a name that the backend declares with `@message`
   * @param {any} [data] what is told, as JSON
   * @returns {Promise<void>} resolves when the server has taken it; rejects with a {@link SyncError}
   */
  send(name, data = null) {
    return new Promise((resolve, reject) => {
      this.session.send(this, name, copy(data), (err) => (err ? reject(err) : resolve()));
    });
  }

  /**
   * Send a sync to the backend, now or as soon as there is a connection.
   * @param {'create' | 'read' | 'update' | 'patch' | 'delete'} method what to do
   * @param {any} [model] a model as JSON, with its id for anything but a create; none to read everything
   * @param {Record<string, any> & {timeout?: number}} [options] extras for the server, `data` is its filter;
   *   `timeout`: milliseconds until the sync fails, instead of the connection's `deadline`
   * @returns {Promise<any>} what the backend answered; rejects with a {@link SyncError}
   */
  sync(method, model = {}, options = {}) {
    return new Promise((resolve, reject) => {
      this.request({ method, model, options, timeout: options.timeout }, (err, result) => {
        if (err) reject(err);
        else resolve(result);
      });
    });
  }

  /**
   * Read a page of what a query finds.
   * @param {Record<string, any>} data the query, such as `{done: false, sort: '-created', limit: 20}`
   * @param {{timeout?: number, [extra: string]: any}} [options] as of `sync`
   * @returns {Promise<Page>} rejects with a {@link SyncError}
   */
  query(data, options = {}) {
    return new Promise((resolve, reject) => {
      const spec = { method: 'read', model: {}, options: { ...options, data }, timeout: options.timeout };
      this.request(spec, (err, models, meta) => {
        if (err) reject(err);
        else resolve({ models, next: meta?.next ?? null, ...(meta?.total !== undefined && { total: meta.total }) });
      });
    });
  }

  /**
   * Follow what a query finds: a list in its order, which stays current, as long as its limit if it has one.
   * @param {Record<string, any>} [data] the query, such as `{done: false, sort: '-created', limit: 20}`; everything by default
   * @param {{idAttribute?: string}} [options] `idAttribute`: the name of the id in a record
   * @returns {Collection} to be read when its `ready()` has resolved; `close()` it in the end
   * @throws {TypeError} the query does not begin at the beginning
   */
  collection(data, { idAttribute } = {}) {
    return new Collection(this, data, idAttribute);
  }

  /**
   * `sync` with a callback, called synchronously as soon as the answer is known.
   * @param {Spec} spec
   * @param {(err: any, result?: any, meta?: any, passed?: boolean) => void} done
   * @returns {{abort: (err: any) => void}} `abort`: fail with an error, unless it is answered
   */
  request({ method, model, options = {}, timeout, rev, key, maker, origins = [] }, done) {
    const { timeout: _, ...extras } = options;
    let sent;
    let size = 0;
    try {
      sent = copy(model);
      size = JSON.stringify(sent).length;
    } catch (err) {
      const message = `the model cannot be written as JSON: ${/** @type {Error} */ (err).message}`;
      setTimeout(() => done(new SyncError({ name: 'BadRequest', message, code: 400 })));
      return { abort() {} };
    }
    const request = { method, model: sent, options: plain(extras), channel: this.channel, rev };
    if (rev === undefined) delete request.rev;
    return this.session.request({ handle: this, request, timeout, key, origins, size, maker, done });
  }

  /**
   * Keep a mirror up to date.
   * @param {Mirror} mirror
   */
  attach(mirror) {
    this.mirrors.add(mirror);
    this.#released = false;
    this.session.join(this);
    this.#coverSoon();
  }

  /** @param {Mirror} mirror */
  detach(mirror) {
    if (this.mirrors.delete(mirror)) this.#released = this.mirrors.size === 0;
    this.#due.delete(mirror);
    this.#rest();
  }

  /**
   * @param {string} event
   * @param {(...args: any[]) => void} listener
   * @returns {this}
   */
  on(event, listener) {
    super.on(event, listener);
    this.session.join(this);
    this.#coverSoon();
    return this;
  }

  /**
   * @param {string} [event]
   * @param {(...args: any[]) => void} [listener]
   * @returns {this}
   */
  off(event, listener) {
    super.off(/** @type {any} */ (event), listener);
    this.#rest();
    return this;
  }

  /** Who makes a write now. @returns {Maker} */
  get maker() {
    return { user: this.session.connection.user, knownAs: this.knownAs };
  }

  /** This client is present no more: leave the channel if nothing else follows it. */
  rest() {
    this.#rest();
  }

  #rest() {
    // Whoever lets go of one collection may be about to bind another.
    if (this.unused) setTimeout(() => this.session.leave(this));
  }

  /** Whether nothing follows the channel any more. */
  get unused() {
    return this.#released && !this.heard && !this.#presence?.wanted;
  }

  /**
   * Emit an event to listeners and mirrors alike.
   * @param {string} event
   * @param {...any} args
   */
  tell(event, ...args) {
    this.emit(event, ...args);
    for (const mirror of [...this.mirrors]) guarded(() => mirror.tell(event, ...args));
  }

  /**
   * Notifications came.
   * @param {News[]} told
   */
  notified(told) {
    const list = this.#deltas.whole(told);
    if (list.length === 0) return;
    for (const one of list) if (one.own) one.acked = this.#notified.has(placeOf(one.meta));
    if (this.listeners('synced').length > 0) {
      for (const { method, raw, meta, own } of list) if (!own) this.emit('synced', method, clone(raw), meta);
    }
    for (const mirror of [...this.mirrors]) guarded(() => mirror.apply(list));
  }

  /**
   * @param {News} news what a write changed
   * @returns {any} the record that it came to; undefined where that is not known
   */
  made(news) {
    return this.#deltas.now(news);
  }

  /** A mirror has been read. */
  released() {
    this.#deltas.released();
  }

  /**
   * A write of this client succeeded: the page's other mirrors of the channel hear of it as of anyone's.
   * @param {Record<string, any>} request
   * @param {any} result
   * @param {import('./follower.js').Meta | undefined} meta
   * @param {Mirror[]} origins
   */
  wrote(request, result, meta, origins) {
    const method = meta?.in === false ? 'delete' : meta?.m ?? NOTIFIED_AS.get(request.method);
    if (!method) return;
    const raw = typeof result === 'object' && result !== null ? result : setsOf(request.model);
    this.#notified.add(placeOf(meta));
    if (this.#notified.size > NOTIFIED) this.#notified.delete(this.#notified.values().next().value);
    for (const mirror of [...this.mirrors]) if (!origins.includes(mirror)) guarded(() => mirror.apply([{ method, raw, meta }]));
  }

  /**
   * History is gone: have every mirror read everything again, for as long as it takes.
   * @param {boolean} renewed whether revisions may have begun anew
   */
  async reread(renewed) {
    const turn = ++this.#reading;
    this.#deltas.restart();
    for (let pause = 1000; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      const results = await Promise.allSettled([...this.mirrors].map((mirror) => mirror.reread(renewed)));
      if (turn !== this.#reading) return;
      const failed = results.some((result) => result.status === 'rejected' && passing(result.reason));
      if (!failed) break;
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (turn !== this.#reading) return;
    }
    this.emit('reset');
    this.session.run(this, this.follower.complete());
    this.released();
  }

  // Live queries: a channel has one listen, whatever is shown of it

  /** The conditions that everything here shares; undefined: everything is to be told. @returns {Conditions | undefined} */
  get #wanted() {
    if (this.listeners('synced').length > 0) return undefined;
    const [{ wanted = {} } = {}, ...others] = this.mirrors;
    const isShared = Object.keys(wanted).length > 0 && others.every((mirror) => same(mirror.wanted, wanted));
    return isShared && !same(wanted, this.#refused) ? wanted : undefined;
  }

  get #isCovered() {
    return this.told === undefined || (this.told !== null && same(this.told, this.#wanted));
  }

  /**
   * A listen leaves: say what it asks to be told of. That is the same as before where it will do, for what was missed is known of
   * that alone.
   * @returns {Conditions | undefined}
   */
  ask() {
    const isEnough = !this.#isAnew && this.#isCovered && Object.keys(this.follower.since).length > 0;
    this.#isAnew = false;
    this.#asked = isEnough ? this.told ?? undefined : this.#wanted;
    return this.#asked;
  }

  /** Listen anew if something wants to be told of more than the server tells of. */
  cover() {
    if (!this.#isCovered) this.#turn();
  }

  #turn() {
    const effects = this.follower.turn();
    if (effects.length === 0) return;
    this.#isAnew = true;
    this.session.run(this, effects);
  }

  #coverSoon() {
    if (this.#isCovering) return;
    this.#isCovering = true;
    // Whatever is bound at the same time counts.
    Promise.resolve().then(() => {
      this.#isCovering = false;
      this.cover();
    });
  }

  /**
   * A mirror wants to show other records: it reads them, once the server tells of them.
   * @param {Mirror} mirror
   */
  requery(mirror) {
    this.#due.add(mirror);
    // Alone it need not be told of more than it wants, either.
    if (!this.#isCovered || (this.mirrors.size === 1 && !same(this.#asked, this.#wanted))) this.#turn();
    if (this.follower.ready && !this.follower.listening) this.#readDue();
  }

  /** The server has answered a listen. @param {boolean} reads whether everything is being read */
  listened(reads) {
    if (reads) this.#due.clear();
    this.#readDue();
    this.cover();
  }

  /** The server has refused a listen for what it asked to be told of, which it may read all the same. @param {Conditions} asked */
  unasked(asked) {
    this.#refused = asked;
    this.told = null;
  }

  /** The server does not let this client listen. */
  unheard() {
    this.#due.clear();
  }

  #readDue() {
    for (const mirror of this.#due) this.#refresh(mirror);
    this.#due.clear();
  }

  /** Have one mirror read everything, for as long as it takes. @param {Mirror} mirror */
  async #refresh(mirror) {
    const turn = (this.#turns.get(mirror) ?? 0) + 1;
    this.#turns.set(mirror, turn);
    for (let pause = 1000; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      const err = await mirror.reread(false).then(() => undefined, (reason) => reason);
      if (!passing(err)) return;
      await new Promise((resolve) => setTimeout(resolve, pause));
      // Another reading has taken over, or nobody shows it any more.
      if (turn !== this.#turns.get(mirror) || !this.mirrors.has(mirror)) return;
    }
  }

  /** The server has answered a listen. @param {boolean} isPresent whether this client is present by now */
  attending(isPresent) {
    this.#attends = true;
    this.#presence?.listened(isPresent);
  }

  /** The server does not let this client listen, and so not be present. @param {SyncError} err */
  barred(err) {
    this.#attends = false;
    this.#presence?.refused(err);
  }

  /** The identity of this client has ended. */
  presencePaused() {
    this.#presence?.paused();
  }

  /** A `presence` event came. @param {any} news */
  presenceTold(news) {
    this.#presence?.told(news);
  }

  /** The channel was left: whoever comes back to it begins anew. */
  left() {
    this.#attends = false;
    this.#presence?.offline();
    this.follower = new Follower();
    this.told = null;
    this.#deltas.restart();
    this.#reading += 1;
  }

  /** The connection is gone: a reading that goes on belongs to it. */
  interrupted() {
    this.#attends = false;
    this.#presence?.offline();
    this.#reading += 1;
  }

  /**
   * Have the positions outlive the page, from now on; those of the page before hold if none have been told yet.
   * @param {string} memory key to keep them under
   */
  persist(memory) {
    if (this.memory) return;
    this.memory = memory;
    if (this.follower.fresh) this.follower = new Follower(recall(memory));
    else this.moved();
  }

  /** Keep the positions for the next page. */
  moved() {
    if (this.memory) remember(this.memory, this.follower.since);
  }
}
