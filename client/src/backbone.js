import { Connection } from './core/connection.js';
import { CollectionMirror } from './mirror-collection.js';
import { ModelMirror } from './mirror-model.js';

/**
 * The Backbone adapter: models and collections with a `backend` sync over Socket.IO, all others as ever.
 *
 * @typedef {string | {name: string, channel?: string | null, persist?: boolean}} BackendSpec
 *
 * @typedef {object} BackboneIO what `Backbone.io` is
 * @property {(url?: string | Record<string, any>, options?: Record<string, any>) => Connection} connect connect to the
 *   server: takes what Socket.IO's `io` takes, and `ConnectOptions`; before or after collections are made
 * @property {Connection} connection the connection, for use without Backbone
 * @property {() => BackboneIO} noConflict put everything in Backbone back as it was
 */

/** Options that are the client's own business. */
const LOCAL = ['attrs', 'xhr', 'collection', 'resync'];

/**
 * Teach Backbone to sync models and collections that name a `backend`. The browser's script does this by itself.
 *
 * @param {any} Backbone Backbone 1.1 to 1.6
 * @param {() => any} io returns Socket.IO's `io` function
 * @returns {BackboneIO} also found as `Backbone.io`
 */
export function attach(Backbone, io) {
  const connection = new Connection(io);
  const original = { sync: Backbone.sync, Model: Backbone.Model, Collection: Backbone.Collection, io: Backbone.io };
  const prototypes = [Backbone.Model.prototype, Backbone.Collection.prototype];
  /** @type {WeakMap<object, CollectionMirror | ModelMirror>} */
  const mirrors = new WeakMap();
  /** Models whose `validationError` is what the server said. @type {WeakSet<object>} */
  const judged = new WeakSet();

  /** @param {any} target @returns {import('./core/handle.js').Handle | undefined} */
  function handleOf(target) {
    const own = target.backend === undefined ? target.collection?.backend : target.backend;
    const spec = typeof own === 'function' ? own.call(target) : own;
    if (!spec) return undefined;
    return typeof spec === 'string' ? connection.backend(spec) : connection.backend(spec.name, spec);
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
    const sent = many && method === 'read' ? {} : payload(model, options, many);
    const known = !many && method !== 'create' && method !== 'read' ? model.id : undefined;
    const origins = [mirrors.get(model), mirrors.get(model.collection)].filter((mirror) => mirror?.handle === handle);
    const its = /** @type {(CollectionMirror & ModelMirror)[]} */ (origins);
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
    handle.request(
      { method, model: sent, options: extras, timeout: options.timeout, rev, key, origins: its },
      (err, result, meta, passed) => (err ? failed(err) : succeeded(result, meta, passed)),
    );
    options.xhr = promise;
    model.trigger('request', model, promise, options);
    return promise;
  }

  const methods = {
    /**
     * Keep this collection or model like the backend, from now on.
     * @this {any}
     */
    bindBackend() {
      const handle = handleOf(this);
      if (!handle) throw new Error("bindBackend: no backend; set one, as in Backbone.Collection.extend({backend: 'name'})");
      if (mirrors.get(this)?.handle === handle) return this;
      this.unbindBackend();
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
      return this;
    },
  };

  const api = {
    connection,
    connect: (/** @type {any} */ url, /** @type {any} */ options) => connection.connect(url, options),
    noConflict() {
      Object.assign(Backbone, original);
      if (original.io === undefined) delete Backbone.io;
      for (const prototype of prototypes) for (const name of Object.keys(methods)) delete prototype[name];
      return api;
    },
  };
  for (const prototype of prototypes) Object.assign(prototype, methods);
  Backbone.sync = sync;
  Backbone.Model = taking(Backbone.Model);
  Backbone.Collection = taking(Backbone.Collection);
  Backbone.io = api;
  return api;
}

/**
 * A constructor of the same kind that takes `backend` from its options too, as Backbone itself does with `model`.
 * @param {any} Kind
 */
function taking(Kind) {
  /** @this {any} @param {any} _content @param {any} options */
  function Taking(_content, options) {
    if (options?.backend !== undefined) this.backend = options.backend;
    return Kind.apply(this, arguments);
  }
  Taking.prototype = Kind.prototype;
  return Object.assign(Taking, Kind);
}

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
