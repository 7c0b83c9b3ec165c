import { Announcer } from './announcer.js';
import { Backend } from './backend.js';
import { Connection } from '../core/connection.js';
import { hasOperators } from '../core/operators.js';
import { OPERATES, applied } from './operators.js';
import { creationOf } from './creation.js';
import { delivered } from './deliver.js';
import { homes } from './homes.js';
import { CollectionMirror } from './mirror-collection.js';
import { ModelMirror } from './mirror-model.js';
import { presentIn } from './present.js';
import { syncing } from './sync.js';

/**
 * The Backbone adapter: models and collections with a `backend` sync over Socket.IO, all others as ever.
 *
 * @typedef {Record<string, any>} Query the conditions of records, and what order and how many: see docs/queries.md
 * @typedef {string | {name: string, channel?: string, persist?: boolean, query?: Query | (() => Query | undefined)}} BackendSpec
 *
 * @typedef {object} BackboneIO what `Backbone.io` is
 * @property {(url?: string | Record<string, any>, options?: Record<string, any>) => Connection} connect connect to the
 *   server: takes what Socket.IO's `io` takes, and `ConnectOptions`; before or after collections are made
 * @property {(token: string) => Promise<void>} authenticate say anew who makes the requests: see `Connection`
 * @property {Connection} connection the connection, for use without Backbone
 * @property {() => BackboneIO} noConflict put everything in Backbone back as it was
 */

/** Marks what `Backbone.io` is, whichever copy of this script made it. */
const ATTACHED = Symbol.for('bbio');

/** The oldest Backbone whose methods are what is relied on here. */
const OLDEST = 1;

/**
 * Teach Backbone to sync models and collections that name a `backend`. The browser's script does this by itself.
 *
 * @param {any} Backbone Backbone 1.0 to 1.6
 * @param {() => any} io returns Socket.IO's `io` function
 * @returns {BackboneIO} also found as `Backbone.io`
 * @throws {Error} it is an older Backbone, or none
 */
export function attach(Backbone, io) {
  if (!(Number.parseInt(Backbone?.VERSION, 10) >= OLDEST)) {
    const version = Backbone?.VERSION ? `this is Backbone ${Backbone.VERSION}` : 'this is not Backbone';
    throw new Error(`bbio needs Backbone 1.0 or newer, and ${version}; load /socket.io/backbone.js, or one of your own`);
  }
  // A script that is loaded twice does nothing the second time.
  if (Backbone.io?.[ATTACHED]) return Backbone.io;
  const connection = new Connection(io);
  const { sync: _sync, Model, Collection } = Backbone;
  const original = { sync: _sync, Model, Collection, io: Backbone.io, IO: Backbone.IO };
  const prototypes = [Backbone.Model.prototype, Backbone.Collection.prototype];
  /** @type {WeakMap<object, CollectionMirror | ModelMirror>} */
  const mirrors = new WeakMap();
  /** What tells those that are not bound. @type {WeakMap<object, Announcer>} */
  const announcers = new WeakMap();
  const forgotten = new FinalizationRegistry((/** @type {Announcer} */ announcer) => announcer.handle.detach(announcer));
  /** Those that are bound, or were: no announcer tells them anything. @type {WeakSet<object>} */
  const deaf = new WeakSet();
  /** @type {Map<string, Backend>} */
  const backends = new Map();

  /** @param {any} target @returns {import('../core/handle.js').Handle | undefined} */
  function handleOf(target) {
    const owner = target.backend === undefined ? target.collection ?? homes.get(target) : target;
    const spec = owner && specOf(owner);
    return spec ? find(spec) : undefined;
  }

  /** @param {any} owner @returns {any} what it says its backend is */
  const specOf = (owner) => (typeof owner.backend === 'function' ? owner.backend() : owner.backend);

  /** @param {any} collection @returns {Query | undefined} its own query */
  function queryOf(collection) {
    const mirror = mirrors.get(collection);
    const query = mirror ? /** @type {any} */ (mirror).asked?.own : specOf(collection)?.query;
    return typeof query === 'function' ? query.call(collection) : query ?? undefined;
  }

  /** @param {BackendSpec | Backend} spec */
  function find(spec) {
    return typeof spec === 'string' ? connection.backend(spec) : connection.backend(spec.name, spec);
  }

  /** @param {any} spec @returns {any} what stands for it as `collection.backend`: one for all that name the same */
  function described(spec) {
    if (!spec || typeof spec === 'function' || spec instanceof Backend) return spec;
    const handle = find(spec);
    const fields = { name: handle.name, channel: handle.channel ?? '', persist: Boolean(spec.persist) };
    // A query is the collection's own.
    if (spec.query !== undefined) return new Backend({ ...fields, query: spec.query }, () => find(fields));
    const key = JSON.stringify(Object.values(fields));
    const backend = backends.get(key) ?? new Backend(fields, () => find(fields));
    backends.set(key, backend);
    return backend;
  }

  /** @param {any} target which then has a `Backend`, whatever it said its backend is */
  function describe(target) {
    const { backend } = target;
    const made = described(backend);
    if (made !== backend) Reflect.set(target, 'backend', made);
  }

  /**
   * Trigger the backend's events on a collection or model that is not bound.
   * @param {any} target
   * @param {import('../core/handle.js').Handle} handle
   */
  function announce(target, handle) {
    if (deaf.has(target) || announcers.get(target)?.handle === handle) return;
    silence(target);
    const isTold = (/** @type {any} */ other) => (mirrors.get(other) ?? announcers.get(other))?.handle === handle;
    // A model that has left a bound collection is told no more than that.
    const wantedBy = (/** @type {any} */ model) => /** @type {any} */ (mirrors.get(homes.get(model)))?.wanted;
    const announcer = new Announcer(target, handle, isTold, wantedBy);
    announcers.set(target, announcer);
    forgotten.register(target, announcer, announcer);
    handle.attach(announcer);
  }

  /** @param {any} target */
  function silence(target) {
    const announcer = announcers.get(target);
    if (!announcer) return;
    announcer.handle.detach(announcer);
    forgotten.unregister(announcer);
    announcers.delete(target);
  }

  /**
   * A constructor of the same kind that takes `backend` from its options too, as Backbone itself does with `model`.
   * @param {any} Kind
   */
  function taking(Kind) {
    /** @this {any} @param {any} _content @param {any} options */
    function Taking(_content, options) {
      const spec = options?.backend;
      if (spec !== undefined) Reflect.defineProperty(this, 'backend', { ...PLAIN, value: described(spec) });
      // A getter goes on saying what it says.
      else describe(this);
      const made = Kind.apply(this, arguments);
      describe(this); // it may be said in `initialize`
      // Thousands of models of a collection would each look at every event. A function may not know yet.
      const { backend, collection } = this;
      if (backend && typeof backend !== 'function' && !collection) announce(this, find(backend));
      return made;
    }
    Taking.prototype = Kind.prototype;
    return Object.assign(Taking, Kind);
  }

  /** @param {any} collection @param {import('../core/handle.js').Handle} handle @returns {CollectionMirror} */
  function keeping(collection, handle) {
    const mirror = new CollectionMirror(collection, handle);
    mirror.asked.begin(queryOf(collection));
    return mirror;
  }

  const methods = {
    /**
     * Keep this collection or model like the backend, from now on.
     * @this {any}
     */
    bindBackend() {
      const handle = handleOf(this);
      if (!handle) {
        const field = 'a class field is set after initialize has run: there, write get backend() { ... }';
        throw new Error(`bindBackend: no backend; set one, as in Backbone.Collection.extend({backend: 'name'}); ${field}`);
      }
      describe(this);
      if (mirrors.get(this)?.handle === handle) return this;
      this.unbindBackend();
      const mirror = this instanceof Backbone.Collection ? keeping(this, handle) : new ModelMirror(this, handle);
      mirrors.set(this, mirror);
      mirror.start();
      handle.attach(mirror);
      return this;
    },

    /**
     * Stop following the backend; syncs go on as before.
     * @this {any}
     */
    unbindBackend() {
      const mirror = mirrors.get(this);
      mirror?.stop();
      mirror?.handle.detach(mirror);
      mirrors.delete(this);
      silence(this);
      deaf.add(this);
      return this;
    },
  };

  /**
   * Hold what another query finds, from now on; a bound collection reads it at once.
   * @this {any}
   * @param {Query | (() => Query | undefined)} [query] none: everything
   */
  function setQuery(query) {
    const spec = specOf(this);
    if (!spec) throw new Error("setQuery: no backend; set one, as in Backbone.Collection.extend({backend: 'name'})");
    const { name, channel, persist } = described(spec);
    const say = (/** @type {any} */ said) => {
      const backend = new Backend({ name, channel, persist, query: said }, () => find({ name, channel, persist }));
      Reflect.defineProperty(this, 'backend', { ...PLAIN, value: backend });
    };
    const mirror = /** @type {any} */ (mirrors.get(this));
    const its = /** @type {any} */ (query);
    if (mirror) mirror.setQuery(typeof query === 'function' ? its.call(this) : query, () => say(mirror.asked.own));
    say(query);
    return this;
  }

  /** The members of channels, by handle. @type {WeakMap<object, any>} */
  const presences = new WeakMap();

  /** Who is present in the collection's channel, a collection of its own; undefined without a backend. */
  const presence = {
    configurable: true,
    /** @this {any} */
    get() {
      const handle = handleOf(this);
      if (handle && !presences.has(handle)) presences.set(handle, presentIn(Backbone, handle));
      return handle && presences.get(handle);
    },
    /** A page's own property of this name takes its place. @this {any} @param {any} value */
    set(value) {
      Object.defineProperty(this, 'presence', { ...PLAIN, value });
    },
  };

  const api = {
    [ATTACHED]: true,
    connection,
    connect: (/** @type {any} */ url, /** @type {any} */ options) => connection.connect(url, options),
    authenticate: (/** @type {string} */ token) => connection.authenticate(token),
    noConflict() {
      Object.assign(Backbone, original);
      for (const name of /** @type {const} */ (['io', 'IO'])) if (original[name] === undefined) delete Backbone[name];
      for (const prototype of prototypes) for (const name of Object.keys(methods)) delete prototype[name];
      delete Backbone.Collection.prototype.setQuery;
      delete Backbone.Collection.prototype.presence;
      for (const [prototype, own] of owned) Object.assign(prototype, own);
      return api;
    },
  };
  const { trigger, destroy, save } = Backbone.Model.prototype;
  const owned = prototypes.map((prototype) => [prototype, { trigger: prototype.trigger }]);
  const { _reset: emptied, get } = Backbone.Collection.prototype;
  Object.assign(owned[0][1], { destroy, save });
  Object.assign(owned[1][1], { _reset: emptied, get });
  for (const prototype of prototypes) Object.assign(prototype, methods, { trigger: delivered(trigger) });
  Object.assign(Backbone.Collection.prototype, { setQuery });
  Object.defineProperty(Backbone.Collection.prototype, 'presence', presence);

  // What Backbone keeps models in has properties that every object has: ids such as `constructor` would find them.
  /** @this {any} */
  Backbone.Collection.prototype._reset = function () {
    emptied.call(this);
    Object.setPrototypeOf(this._byId, null);
  };

  // Backbone asks a record for its text before it looks for its id; a field `toString` cannot say it.
  /** @this {any} @param {any} sought */
  Backbone.Collection.prototype.get = function (sought) {
    const speechless = typeof sought === 'object' && sought !== null && typeof sought.toString !== 'function';
    return get.call(this, speechless ? { ...sought, toString: Object.prototype.toString } : sought);
  };

  /** @this {any} @param {any} options */
  Backbone.Model.prototype.destroy = function (options) {
    const handle = this.isNew() ? handleOf(this) : undefined;
    if (!handle || !creationOf(this, handle)) return destroy.call(this, options);
    // It has no id yet, but will have one: there is something to be deleted.
    this.isNew = () => false;
    try {
      return destroy.call(this, options);
    } finally {
      delete this.isNew;
    }
  };

  /** @this {any} @param {any} key @param {any} val @param {any} [_options] */
  Backbone.Model.prototype.save = function (key, val, _options) {
    const operates = hasOperators(key) && val?.patch && handleOf(this);
    if (!operates) return save.apply(this, arguments);
    // The model shows at once what it comes to, and the server is told what to add; nobody else adds to a new model.
    const travels = this.isNew() ? undefined : { [OPERATES]: val.attrs ?? key };
    return save.call(this, applied(this.attributes, key), { ...val, ...travels });
  };
  Backbone.sync = syncing(Backbone, { handleOf, queryOf, mirrors, announcers, announce, original: _sync });
  Backbone.Model = taking(Backbone.Model);
  Backbone.Collection = taking(Backbone.Collection);
  Backbone.io = Backbone.IO = api;
  return api;
}

/** How an attribute of an object is defined that was simply assigned. */
const PLAIN = { writable: true, enumerable: true, configurable: true };
