import { operationsIn, setsOf } from '../core/operators.js';
import { SyncError } from '../core/errors.js';
import { clone, copy, plain, same, snapshot } from '../core/json.js';
import { joined, readAll } from '../core/pages.js';
import { combined } from '../core/query.js';
import { guarded } from '../core/report.js';
import { OPERATES, applied, rebuilt } from './operators.js';
import { created, creating, creationOf, follow } from './creation.js';
import { delivering } from './deliver.js';
import { LEAVE, REMOTE, destroyed, reassert, restore, unset } from './mirror.js';
import { turnPage } from './page.js';
import { ROUNDED, isRounded, lookout } from './rounded.js';
import { lost, nameOfId, note, shownBy, watchingParse } from './shown.js';
import { begun, changed, ended, writesOf } from './writes.js';

/**
 * `Backbone.sync` over Socket.IO: what the page asks for goes out, and what is answered comes back into its models.
 *
 * @typedef {import('./mirror-collection.js').CollectionMirror & import('./mirror-model.js').ModelMirror} Mirror
 * @typedef {import('../core/handle.js').Handle} Handle
 * @typedef {object} Call
 * @property {any} model
 * @property {any} options
 * @property {boolean} many whether it is a collection
 * @property {any[]} hearers what tells the model's unbound objects, which need not hear of it
 * @property {(models: any[]) => void} look looks at models that the server has told of
 * @property {(value: any) => void} resolve
 * @property {(err: any) => void} reject
 */

/** Options that are the client's own business. */
const LOCAL = ['attrs', 'xhr', 'collection', OPERATES];

/** Given to Backbone with an answer that says nothing any more: nothing of it is taken. */
const MUTE = { parse: false, reset: false, add: false, merge: false, remove: false };

/** Models whose `validationError` is what the server said. @type {WeakSet<object>} */
const judged = new WeakSet();

/** Fetches of each collection: how many were sent, and the latest whose answer replaced what was there. @type {WeakMap<object, {sent: number, replaced: number}>} */
const fetches = new WeakMap();

/**
 * @param {any} Backbone
 * @param {object} page
 * @param {(target: any) => Handle | undefined} page.handleOf
 * @param {(collection: any) => any} page.queryOf
 * @param {WeakMap<object, any>} page.mirrors what keeps a bound collection or model
 * @param {WeakMap<object, any>} page.announcers what tells those that are not bound
 * @param {(target: any, handle: Handle) => void} page.announce have one told
 * @param {Function} page.original Backbone's own `sync`
 */
export function syncing(Backbone, { handleOf, queryOf, mirrors, announcers, announce, original }) {
  const look = lookout();

  /**
   * @this {any}
   * @param {string} method
   * @param {any} model
   * @param {any} [options]
   */
  return function sync(method, model, options = {}) {
    const handle = handleOf(model);
    if (!handle) return original.apply(this, arguments);
    const many = model instanceof Backbone.Collection;
    announce(!many && model.collection && handleOf(model.collection) === handle ? model.collection : model, handle);
    const hearers = [announcers.get(model), announcers.get(model.collection)].filter((one) => one?.handle === handle);
    const { promise, resolve, reject } = deferred(Backbone);
    const call = { model, options, many, hearers, look, resolve, reject };
    if (method === 'read') {
      const mirror = mirrors.get(model);
      const its = !many ? holders(model, handle) : mirror?.handle === handle ? [mirror] : [];
      const under = read(handle, its, call, many ? queryOf(model) : undefined);
      promise.abort = () => under.abort(new SyncError({ name: 'Aborted', message: `the fetch of "${handle.name}" was aborted`, code: 499 }));
    } else write(handle, many ? [] : holders(model, handle), method, call);
    options.xhr = promise;
    model.trigger('request', model, promise, options);
    return promise;
  };
}

/** @param {any} model @param {Handle} handle @returns {Mirror[]} what keeps it, its own collection first */
function holders(model, handle) {
  const all = [.../** @type {Set<any>} */ (handle.mirrors)].filter((mirror) => mirror.holds?.(model));
  return all.sort((a, b) => Number(b.target === model.collection) - Number(a.target === model.collection));
}

/** @param {any} options @returns {Record<string, any>} those that travel, as they travel */
function travelling(options) {
  const { timeout: _, ...extras } = options;
  for (const name of LOCAL) delete extras[name];
  return plain(extras);
}

/** @param {Handle} handle @param {Mirror[]} its what keeps the target @param {Call} call @param {any} query that of the collection */
function read(handle, its, { model, options, many, look, resolve, reject }, query) {
  const asked = travelling(options);
  if (query) asked.data = combined(query, asked.data);
  const sent = many ? {} : payload(model, options, handle);
  const turns = fetches.get(model) ?? { sent: 0, replaced: 0 };
  const turn = (turns.sent += 1);
  fetches.set(model, turns);
  const { timeout } = options;
  let under = send();
  return { abort: (/** @type {any} */ err) => under.abort(err) };

  function send() {
    const eras = its.map((mirror) => mirror.replica.hold());
    const release = () => its.forEach((mirror) => guarded(() => mirror.release()));
    return readAll(handle, { method: 'read', model: sent, options: asked, timeout }, (err, parts) => {
      if (!err && its.some((mirror, n) => mirror.replica.era !== eras[n])) {
        // Everything is being read anew: this is from before, and says nothing any more.
        under = send();
        release();
        return;
      }
      const { result, meta } = err ? { result: undefined, meta: undefined } : joined(parts, asked.data);
      delivering(() => guarded(() => (err ? options.error?.(err) : answered(result, meta))));
      release();
      if (!err) look(many ? model.models : [model]);
      if (err) reject(err);
      else resolve(result);
    });
  }

  /** @param {any} result @param {any} meta */
  function answered(result, meta) {
    const outdated = many && turns.replaced > turn;
    if (outdated) Object.assign(options, MUTE);
    else if (many) {
      turnPage(model, options, meta);
      if (options.remove !== false) turns.replaced = turn;
    }
    const [mirror] = its;
    if (outdated || !mirror) options.success?.(result);
    else if (many) mirror.received(result, options, asked, () => options.success?.(result), meta);
    else receivedOne(handle, its, model, options, result, meta?.r ?? undefined);
  }
}

/** @param {Handle} handle @param {Mirror[]} its @param {any} model @param {any} options @param {any} result @param {number | undefined} rev */
function receivedOne(handle, its, model, options, result, rev) {
  if (typeof result !== 'object' || result === null) {
    options.success?.(result);
    return;
  }
  const raw = clone(result);
  const latest = newer(its, model.id, rev);
  for (const mirror of its) mirror.replica.learn(model.id, raw, rev);
  show(handle, model, latest ?? { raw, rev }, () => options.success?.(latest ? clone(latest.raw) : result));
  for (const mirror of its) mirror.place(model, 'read');
}

/**
 * Have Backbone take an answer, and note what it makes the model show.
 * @param {Handle} handle
 * @param {any} model
 * @param {{raw: any, rev: number | undefined}} record
 * @param {() => void} succeed
 */
function show(handle, model, { raw, rev }, succeed) {
  const before = shownBy(model, handle);
  // What the application does on success may build on it already.
  note(model, handle, { raw, rev, parsed: raw });
  let first = true;
  const parsed = (/** @type {any} */ one, /** @type {any} */ _, /** @type {any} */ outcome) => {
    if (one !== model || !first) return;
    first = false;
    note(model, handle, { raw, rev, parsed: outcome });
    unset(model, lost(model, before, outcome).filter((key) => key !== model.idAttribute));
  };
  watchingParse([model], undefined, parsed, () => guarded(succeed));
}

/**
 * @param {Mirror[]} its
 * @param {any} id
 * @param {number | undefined} rev
 * @returns {{raw: any, rev: number} | undefined} what is known of the model that is newer
 */
function newer(its, id, rev) {
  for (const { replica } of its) {
    const [latest, raw] = [replica.rev(id), replica.truth(id)];
    if (rev !== undefined && latest !== undefined && latest > rev && raw !== undefined) return { raw, rev: latest };
  }
  return undefined;
}

/** @param {Handle} handle @param {Mirror[]} its what keeps the model @param {string} method @param {Call} call */
function write(handle, its, method, { model, options, many, hearers, look, resolve, reject }) {
  const base = shownBy(model, handle);
  const sent = travellingModel(payload(model, options, handle));
  const creation = many ? undefined : creationOf(model, handle);
  const made = options.wait ? undefined : begin();
  let creates = false;
  if (method === 'create') destroyed.delete(model);
  if (method === 'delete' && !options.wait) destroyed.add(model);
  const extras = travelling(options);
  // Whoever makes a change has made it, however long it waits.
  const { maker } = handle;
  if (creation) follow(creation, { method, sent, send, failed, spared: () => succeeded('delete', sent, undefined, undefined, true) });
  else {
    if (method === 'create' && !many) creating(model, handle, sent);
    send(method, sent, method === 'update' || method === 'patch' ? base?.rev : undefined);
  }

  /** @param {string} how @param {any} what @param {number | undefined} rev */
  function send(how, what, rev) {
    creates = how === 'create';
    const key = how === 'create' || model.id === undefined || model.id === null ? undefined : String(model.id);
    if (how !== 'create' && isRounded(model.id)) {
      const message = `${how} of "${handle.name}": ${ROUNDED}, and ${model.id} may be the id of another model`;
      setTimeout(() => failed(new SyncError({ name: 'BadRequest', message, code: 400 })));
      return;
    }
    const origins = [...its, ...hearers];
    handle.request({ method: how, model: what, options: extras, timeout: options.timeout, rev, key, origins, maker }, (err, result, meta, passed) => {
      if (err) failed(err);
      else succeeded(how, what, result, meta, passed);
    });
  }

  /** @returns {import('./writes.js').Write} a change that the page shows already */
  function begin() {
    const operations = operationsIn(method === 'patch' ? sent : undefined);
    const sets = method === 'patch' ? setsOf(sent) : { ...(creation?.attributes ?? base?.base), ...sent };
    const names = new Set(Object.keys(sets));
    names.delete(model.idAttribute);
    const changes = method === 'delete' || (method === 'create' && !creation) ? {} : changed(model, creation?.attributes ?? base?.base ?? {}, names);
    // What goes back to what it was before another change that waits is a change, too.
    for (const { mine } of writesOf(model)) for (const key of Object.keys(mine)) if (names.has(key)) changes[key] ??= snapshot(model.get(key));
    const places = new Map(its.map((mirror) => [mirror, mirror.target.models ? mirror.target.indexOf(model) : -1]));
    for (const name of operations.keys()) changes[name] = model.get(name);
    const change = { model, method, mine: changes, operations, places };
    begun(change);
    for (const mirror of its) mirror.pending.add(change);
    return change;
  }

  function end() {
    if (!made) return;
    ended(made);
    for (const mirror of its) mirror.pending.delete(made);
  }

  /** @param {string} how @param {any} what @param {any} result @param {any} meta @param {boolean} [passed] */
  function succeeded(how, what, result, meta, passed) {
    if (judged.delete(model)) model.validationError = null;
    end();
    const isRecord = typeof result === 'object' && result !== null;
    // Of what this client may not see any more the id alone is told.
    const hasLeft = meta?.in === false && how !== 'delete';
    const written = how === 'patch' ? { ...base?.raw, ...applied(base?.raw, what) } : what;
    const raw = hasLeft && Object.keys(result).length === 1 ? { ...written, ...result } : isRecord ? clone(result) : written;
    if (!passed) for (const mirror of its) mirror.acked(model, hasLeft ? 'delete' : how, raw, meta);
    delivering(() => {
      if (how === 'delete') {
        destroyed.add(model);
        guarded(() => options.success?.(result));
      } else guarded(() => answered(how, what, hasLeft ? clone(raw) : result, raw, meta?.r));
      for (const mirror of its) guarded(() => mirror.place(model, hasLeft ? LEAVE : how, passed));
    });
    if (how !== 'delete') look([model]);
    if (creates) created(model, { raw });
    resolve(result);
  }

  /** @param {string} how @param {any} what @param {any} result @param {any} raw @param {number | undefined} rev */
  function answered(how, what, result, raw, rev) {
    if (how === 'create') for (const mirror of its) mirror.settle(model, raw);
    const latest = newer(its, its[0]?.idOf(raw), rev);
    show(handle, model, latest ?? { raw, rev }, () => options.success?.(latest ? clone(latest.raw) : result));
    reassert(model, handle);
    const now = shownBy(model, handle)?.base;
    if (latest && now) restore(model, made?.mine ?? what, now);
  }

  /** @param {any} err */
  function failed(err) {
    end();
    delivering(() => {
      if (!many && err.name === 'Invalid' && err.fields) {
        judged.add(model);
        model.validationError = err.fields;
        // Before anything is undone, while a model that was to be created is still in its collection.
        model.trigger('invalid', model, err.fields, { ...options, validationError: err.fields });
      }
      guarded(() => undo(err));
      guarded(() => options.error?.(err));
      // Out of its collection again, a refused model no longer passes its events on.
      for (const { target } of made ? its : []) {
        if (target !== model && !target.get(model)) target.trigger('error', model, err, options);
      }
    });
    if (creates) created(model, { err });
    reject(err);
  }

  /** @param {any} err */
  function undo(err) {
    if (method === 'delete') destroyed.delete(model);
    const mine = made?.mine ?? {};
    const before = shownBy(model, handle)?.base;
    const theirs = err.name === 'Conflict' && err.current && model.id !== undefined ? clone(err.current) : undefined;
    if (theirs && before) {
      for (const mirror of its) mirror.replica.accept(model.id, theirs, err.rev);
      const { raw, rev } = newer(its, model.id, err.rev) ?? { raw: theirs, rev: err.rev };
      const edited = (/** @type {string} */ key) => !same(model.get(key), key in mine ? mine[key] : before[key]);
      its[0]?.show(model, raw, rev, edited);
    }
    const now = shownBy(model, handle)?.base;
    if (now) {
      model.set(rebuilt(model, now), REMOTE);
      restore(model, mine, now);
    }
    if (made) for (const mirror of its) mirror.undo(made, err);
    if (method === 'update' || method === 'patch') for (const mirror of /** @type {Set<any>} */ (handle.mirrors)) mirror.place?.(model, method);
    if (theirs) for (const mirror of its) mirror.trigger('conflict', model, sent, clone(theirs));
  }
}

/**
 * @param {any} model
 * @param {any} options
 * @param {Handle} handle
 * @returns {any} what travels of a model: `options.attrs` if given, always with its id, under the name it has on the server
 */
function payload(model, options, handle) {
  const data = options[OPERATES] ?? options.attrs ?? model.toJSON(options);
  const name = nameOfId(shownBy(model, handle)?.raw, model.id, model.idAttribute) ?? model.idAttribute;
  if (model.id === undefined || model.id === null || data[name] !== undefined) return data;
  return { ...data, [name]: model.id };
}

/** @param {any} data @returns {any} a copy as it travels; the data itself if it cannot, which is told when it is sent */
function travellingModel(data) {
  try {
    return copy(data);
  } catch {
    return data;
  }
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
