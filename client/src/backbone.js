import { Announcer } from './announcer.js';
import { Backend } from './backend.js';
import { Connection } from './core/connection.js';
import { SyncError } from './core/errors.js';
import { CollectionMirror } from './mirror-collection.js';
import { ModelMirror } from './mirror-model.js';

/**
 * The Backbone adapter: models and collections with a `backend` sync over Socket.IO, all others as ever.
 *
 * @typedef {string | {name: string, channel?: string, persist?: boolean}} BackendSpec
 *
 * @typedef {object} BackboneIO what `Backbone.io` is
 * @property {(url?: string | Record<string, any>, options?: Record<string, any>) => Connection} connect connect to the
 *   server: takes what Socket.IO's `io` takes, and `ConnectOptions`; before or after collections are made
 * @property {Connection} connection the connection, for use without Backbone
 * @property {() => BackboneIO} noConflict put everything in Backbone back as it was
 */

/** Options that are the client's own business. */
const LOCAL = ['attrs', 'xhr', 'collection', 'resync'];

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
    const found = Backbone?.VERSION ? `this is Backbone ${Backbone.VERSION}` : 'this is no Backbone';
    throw new Error(`bbio needs Backbone 1.0 or newer, and ${found}; load /socket.io/backbone.js, or one of your own`);
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
  /** Those that were unbound, and are told nothing. @type {WeakSet<object>} */
  const deaf = new WeakSet();
  /** @type {Map<string, Backend>} */
  const backends = new Map();
  /** Models whose `validationError` is what the server said. @type {WeakSet<object>} */
  const judged = new WeakSet();

  /** @param {any} target @returns {import('./core/handle.js').Handle | undefined} */
  function handleOf(target) {
    const owner = target.backend === undefined ? target.collection : target;
    const spec = typeof owner?.backend === 'function' ? owner.backend() : owner?.backend;
    return spec ? find(spec) : undefined;
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
    const key = JSON.stringify(Object.values(fields));
    const backend = backends.get(key) ?? new Backend(fields, () => find(fields));
    backends.set(key, backend);
    return backend;
  }

  /**
   * Trigger the backend's events on a collection or model that is not bound.
   * @param {any} target
   * @param {import('./core/handle.js').Handle} handle
   */
  function announce(target, handle) {
    if (mirrors.has(target) || deaf.has(target) || announcers.get(target)?.handle === handle) return;
    silence(target);
    const isTold = (/** @type {any} */ other) => (mirrors.get(other) ?? announcers.get(other))?.handle === handle;
    const announcer = new Announcer(target, handle, isTold);
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
      const given = options?.backend;
      if (given !== undefined) Reflect.defineProperty(this, 'backend', { ...PLAIN, value: described(given) });
      // A getter goes on saying what it says.
      else if (this.backend) Reflect.set(this, 'backend', described(this.backend));
      const made = Kind.apply(this, arguments);
      // Thousands of models of a collection would each look at every event. A function may not know yet.
      const { backend, collection } = this;
      if (backend && typeof backend !== 'function' && !collection) announce(this, find(backend));
      return made;
    }
    Taking.prototype = Kind.prototype;
    return Object.assign(Taking, Kind);
  }

  /**
   * @this {any}
   * @param {string} method
   * @param {any} model
   * @param {any} [options]
   */
  function sync(method, model, options = {}) {
    const handle = handleOf(model);
    if (!handle) return original.sync.apply(this, arguments);
    const many = model instanceof Backbone.Collection;
    announce(!many && model.collection && handleOf(model.collection) === handle ? model.collection : model, handle);
    const sent = many && method === 'read' ? {} : payload(model, options, many);
    const known = !many && method !== 'create' && method !== 'read' ? model.id : undefined;
    const origins = [mirrors.get(model), mirrors.get(model.collection)].filter((mirror) => mirror?.handle === handle);
    const its = /** @type {(CollectionMirror & ModelMirror)[]} */ (origins);
    const hearers = [announcers.get(model), announcers.get(model.collection)].filter((one) => one?.handle === handle);
    const makers = /** @type {import('./core/handle.js').Mirror[]} */ ([...its, ...hearers]);
    const { promise, resolve, reject } = deferred(Backbone);

    const reading = method === 'read' ? its : [];
    const changing = method === 'read' || options.wait ? [] : its;
    const eras = new Map(reading.map((mirror) => [mirror, mirror.replica.hold()]));
    const writes = new Map(changing.map((mirror) => [mirror, mirror.begin(model, method, sent)]));

    /** @param {any} result @param {any} meta @param {boolean} [passed] */
    const succeeded = (result, meta, passed) => {
      if (method !== 'read' && judged.delete(model)) model.validationError = null;
      let succeed = () => options.success?.(result);
      if (many && method === 'read') turn(model, options, meta);
      /** @type {(CollectionMirror & ModelMirror)[]} */
      const outdated = [];
      for (const mirror of its) {
        mirror.pending.delete(/** @type {any} */ (writes.get(mirror)));
        const latest = method === 'read' || (!passed && mirror.acked(model, method, sent, result, meta));
        if (!latest || method === 'delete') outdated.push(mirror);
        if (method === 'create') mirror.settle(model, result);
      }
      for (const mirror of reading) {
        const inner = succeed;
        const late = !options.resync && eras.get(mirror) !== mirror.replica.era;
        if (late) succeed = () => mirror.receivedLate(model, inner);
        else succeed = () => mirror.obsolete(options) || mirror.received(model, result, options, inner, meta);
      }
      try {
        succeed();
      } finally {
        if (method !== 'delete') look(many ? model.models : [model]);
        for (const mirror of reading) mirror.release();
        for (const mirror of outdated) mirror.reconcile(model, result);
        if (!many) for (const mirror of its) mirror.reassert(model);
        resolve(result);
      }
    };

    /** @param {any} err */
    const failed = (err) => {
      if (!many && err.name === 'Invalid' && err.fields) {
        judged.add(model);
        model.validationError = err.fields;
        // Before anything is undone, while a model that was to be created is still in its collection.
        model.trigger('invalid', model, err.fields, { ...options, validationError: err.fields });
      }
      for (const mirror of its) {
        const write = writes.get(mirror);
        if (write) mirror.pending.delete(write);
        if (method !== 'read') mirror.refused(model, write, err, sent);
      }
      try {
        options.error?.(err);
        // Out of its collection again, a refused model no longer passes its events on.
        for (const { target } of writes.keys()) {
          if (target !== model && !target.get(model)) target.trigger('error', model, err, options);
        }
      } finally {
        for (const mirror of reading) mirror.release();
        reject(err);
      }
    };

    const revs = its.map((mirror) => mirror.replica.rev(known) ?? 0);
    const rev = method === 'update' || method === 'patch' ? Math.max(0, ...revs) || undefined : undefined;
    const key = known === undefined || known === null ? undefined : String(known);
    const extras = { ...options };
    for (const name of LOCAL) delete extras[name];
    if (isRounded(known)) {
      const message = `${method} of "${handle.name}": ${ROUNDED}, and ${known} may be the id of another model`;
      setTimeout(() => failed(new SyncError({ name: 'BadRequest', message, code: 400 })));
    } else {
      handle.request(
        { method, model: sent, options: extras, timeout: options.timeout, rev, key, origins: makers },
        (err, result, meta, passed) => (err ? failed(err) : succeeded(result, meta, passed)),
      );
    }
    options.xhr = promise;
    model.trigger('request', model, promise, options);
    return promise;
  }

  let warned = false;
  /** @param {any[]} models that the server has just told of */
  function look(models) {
    if (warned || !models.some((/** @type {any} */ { id }) => isRounded(id))) return;
    warned = true;
    console.warn(`bbio: ${ROUNDED}; two models may look like one, and cannot be saved`);
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
      if (mirrors.get(this)?.handle === handle) return this;
      this.unbindBackend();
      deaf.delete(this);
      const mirror = new (this instanceof Backbone.Collection ? CollectionMirror : ModelMirror)(this, handle);
      mirrors.set(this, mirror);
      handle.attach(mirror);
      return this;
    },

    /**
     * Stop following the backend; syncs go on as before.
     * @this {any}
     */
    unbindBackend() {
      const mirror = mirrors.get(this);
      if (mirror) mirror.handle.detach(mirror);
      mirrors.delete(this);
      silence(this);
      deaf.add(this);
      return this;
    },
  };

  const api = {
    [ATTACHED]: true,
    connection,
    connect: (/** @type {any} */ url, /** @type {any} */ options) => connection.connect(url, options),
    noConflict() {
      Object.assign(Backbone, original);
      for (const name of /** @type {const} */ (['io', 'IO'])) if (original[name] === undefined) delete Backbone[name];
      for (const prototype of prototypes) for (const name of Object.keys(methods)) delete prototype[name];
      return api;
    },
  };
  for (const prototype of prototypes) Object.assign(prototype, methods);
  Backbone.sync = sync;
  Backbone.Model = taking(Backbone.Model);
  Backbone.Collection = taking(Backbone.Collection);
  Backbone.io = Backbone.IO = api;
  return api;
}

/** Said of ids past 2^53. */
const ROUNDED = 'JavaScript rounds ids past 2^53; have the server give them as texts';

/** @param {any} id @returns {boolean} whether the server may have sent another number */
const isRounded = (id) => Number.isInteger(id) && !Number.isSafeInteger(id);

/** How an attribute of an object is defined that was simply assigned. */
const PLAIN = { writable: true, enumerable: true, configurable: true };


/** What collections were told of the page that they have. */
const pages = new WeakSet();

/**
 * Tell of the page that a fetch came to; a property of that name that is the application's own stays as it is.
 * @param {any} collection
 * @param {any} options of the fetch
 * @param {any} meta what the server said of its reply
 */
function turn(collection, options, meta) {
  if (meta?.next !== undefined) {
    options.page = collection.page = { next: meta.next, ...('total' in meta && { total: meta.total }) };
    pages.add(options.page);
  } else if (pages.has(collection.page)) {
    delete collection.page;
  }
}

/**
 * @param {any} model
 * @param {any} options
 * @param {boolean} many
 * @returns {any} what travels of a model: `options.attrs` if given, always with its id
 */
function payload(model, options, many) {
  const data = options.attrs ?? model.toJSON(options);
  if (many || model.isNew() || data[model.idAttribute] !== undefined) return data;
  return { ...data, [model.idAttribute]: model.id };
}

/**
 * jQuery's kind of promise where Backbone has jQuery, the browser's otherwise.
 * @param {any} Backbone
 */
function deferred(Backbone) {
  if (Backbone.$?.Deferred) {
    const { resolve, reject, ...rest } = Backbone.$.Deferred();
    return { promise: rest.promise(), resolve, reject };
  }
  /** @type {any} */
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  // Most of Backbone's callers use callbacks, and must not be told of a rejection nobody handled.
  parts.promise.catch(() => {});
  return parts;
}
