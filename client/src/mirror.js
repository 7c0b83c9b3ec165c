import { same } from './core/json.js';
import { Replica } from './core/replica.js';

/**
 * A bound collection or model: it takes what the backend tells, knows what the server holds, and undoes local changes
 * that the server refuses.
 *
 * @typedef {import('./core/follower.js').Meta} Meta
 * @typedef {object} Write a change made before its answer
 * @property {any} model
 * @property {string} method
 * @property {Record<string, any>} mine the attributes it changed
 * @property {any} truth what the server held then
 * @property {number} index where in the collection the model was
 */

/** Passed with every change that comes from the server, for listeners that tell the two apart. */
export const REMOTE = { remote: true };

/** Models whose `destroy` was triggered; a model bound twice is destroyed once. */
export const destroyed = new WeakSet();

export class Mirror {
  replica = new Replica();
  /** @type {Set<Write>} */
  pending = new Set();
  /** Outcomes of writes to be reconciled once a read has ended. @type {[any, any][]} */
  deferred = [];
  /** The latest reading of everything. @type {{mirror: Mirror, cancel: () => void} | undefined} */
  resync = undefined;

  /**
   * @param {any} target the bound collection or model
   * @param {import('./core/handle.js').Handle} handle
   */
  constructor(target, handle) {
    this.target = target;
    this.handle = handle;
  }

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    if (event === 'error') this.target.trigger('error', this.target, args[0], {});
    else if (event !== 'listening') this.trigger(event, ...args);
  }

  /** @param {string} event @param {...any} args */
  trigger(event, ...args) {
    this.target.trigger(`${this.handle.prefix}:${event}`, ...args);
  }

  /** @param {string} method @param {any} raw @param {Meta} [meta] */
  apply(method, raw, meta) {
    if (!this.replica.keep({ method, raw, meta })) this.take(method, raw, meta);
  }

  /**
   * @param {string} method
   * @param {any} raw
   * @param {Meta} [meta]
   * @param {{again?: boolean, maker?: any}} [how] `again`: make the change even when it is known, a read may have undone
   *   it; `maker`: the model whose own write it is
   */
  take(method, raw, meta, { again = false, maker } = {}) {
    const id = this.idOf(raw);
    if (!this.concerns(id)) return;
    const before = this.replica.truth(id);
    const news = id === undefined || this.replica.accept(id, method === 'delete' ? undefined : raw, meta?.r);
    // Streams overtake each other: an update may come before the create that lets the model in.
    if (!news && !again && method !== 'create') return;
    const truth = id === undefined ? raw : this.replica.truth(id);
    if (truth === undefined) this.change('delete', id, raw, before);
    else this.change(method, id, truth, before, maker);
    if (!news || maker) return;
    this.target.trigger(this.handle.prefix, method, raw);
    this.trigger(method, raw);
  }

  /**
   * A write of the target's own succeeded.
   * @param {any} model
   * @param {string} method
   * @param {any} sent
   * @param {any} result
   * @param {Meta} [meta]
   * @returns {boolean} false when something newer is known already, or another instance stands for the model
   */
  acked(model, method, sent, result, meta) {
    const told = typeof result === 'object' && result !== null;
    const known = this.replica.truth(this.idOf(sent));
    const raw = told ? result : method === 'patch' ? { ...known, ...sent } : sent;
    const id = this.idOf(raw) ?? this.idOf(sent);
    if (id === undefined) return true;
    this.replica.keep({ method, raw, meta, maker: model });
    const news = this.replica.accept(id, method === 'delete' ? undefined : raw, meta?.r);
    return news && !this.replaced(model);
  }

  /**
   * The target has just been set to the outcome of its own write, though something newer is known, or will be once
   * a read that is under way has ended.
   * @param {any} model
   * @param {any} result
   */
  reconcile(model, result) {
    if (this.replica.reading) {
      this.deferred.push([model, result]);
      return;
    }
    const truth = this.replica.truth(model.id);
    if (truth === undefined) this.change('delete', model.id, result, undefined);
    else this.change('create', model.id, truth, result ?? undefined);
  }

  /** A read that was sent has ended: what was told meanwhile may be applied. */
  release() {
    for (const { method, raw, meta, maker } of this.replica.release()) {
      if (maker) this.replica.learn(this.idOf(raw), method === 'delete' ? undefined : raw, meta?.r);
      this.take(method, raw, meta, { again: true, maker });
    }
    if (!this.replica.reading) for (const [model, result] of this.deferred.splice(0)) this.reconcile(model, result);
  }

  /**
   * A change of the target's own goes out, already made locally.
   * @param {any} model
   * @param {string} method
   * @param {Record<string, any>} sent
   * @returns {Write}
   */
  begin(model, method, sent) {
    const raw = this.replica.truth(model.id);
    const truth = this.attributes(model, raw);
    /** @type {Record<string, any>} */
    const mine = {};
    if (method === 'update' || method === 'patch') {
      const keys = method === 'patch' ? Object.keys(sent) : Object.keys({ ...truth, ...sent });
      for (const key of keys) {
        if (same(model.get(key), sent[key]) && !(truth && same(truth[key], sent[key]))) mine[key] = sent[key];
      }
    }
    const write = { model, method, mine, truth: raw, index: this.target.models ? this.target.indexOf(model) : -1 };
    this.pending.add(write);
    return write;
  }

  /**
   * The server refused a write: go back to what it holds, except where the user has changed more since.
   * @param {any} model
   * @param {Write | undefined} write the local change, if it had been made already
   * @param {any} err
   * @param {any} sent
   */
  refused(model, write, err, sent) {
    const before = this.attributes(model, this.replica.truth(model.id));
    const theirs = err?.name === 'Conflict' ? err.current : undefined;
    if (theirs && model.id !== undefined) this.replica.accept(model.id, theirs, err.rev);
    const truth = this.attributes(model, this.replica.truth(model.id));
    if (truth && before) this.restore(model, write?.mine ?? {}, before, truth);
    if (write) this.undo(write);
    if (this.replaced(model)) this.reconcile(model, undefined);
    if (theirs) this.trigger('conflict', model, sent, theirs);
  }

  /**
   * @param {any} model
   * @param {Record<string, any>} mine
   * @param {Record<string, any>} before
   * @param {Record<string, any>} truth
   */
  restore(model, mine, before, truth) {
    for (const key of Object.keys({ ...before, ...truth, ...mine })) {
      const value = model.get(key);
      const untouched = same(value, key in mine ? mine[key] : before[key]);
      if (untouched && !this.overlay(model, key)) this.assign(model, key, truth);
    }
  }

  /** @param {any} model @param {string} key @returns {Write | undefined} the pending write that sets the attribute */
  overlay(model, key) {
    return [...this.pending].find((write) => write.model === model && key in write.mine);
  }

  /** The model was set to an answer: changes that still wait for theirs go on top. @param {any} model */
  reassert(model) {
    for (const write of this.pending) {
      if (write.model === model) for (const key of Object.keys(write.mine)) this.assign(model, key, write.mine);
    }
  }

  /** @param {any} model @param {string} key @param {Record<string, any>} attributes where to find its value, if it has one */
  assign(model, key, attributes) {
    if (attributes[key] !== undefined) model.set(key, attributes[key], REMOTE);
    else if (model.has(key)) model.unset(key, REMOTE);
  }

  /**
   * Set what the server holds; attributes that it no longer has go, those with a pending change stay.
   * @param {any} model
   * @param {any} raw
   * @param {any} before what the server held earlier
   */
  merge(model, raw, before) {
    const attributes = this.attributes(model, raw) ?? {};
    const gone = Object.keys(this.attributes(model, before) ?? {}).filter((key) => !(key in attributes));
    const pending = (/** @type {string} */ key) => this.overlay(model, key);
    const settled = Object.keys(attributes).filter((key) => !pending(key));
    model.set(Object.fromEntries(settled.map((key) => [key, attributes[key]])), REMOTE);
    for (const key of gone) if (!pending(key)) this.assign(model, key, attributes);
  }

  /** @param {any} model @param {any} raw @returns {Record<string, any> | undefined} */
  attributes(model, raw) {
    return raw === undefined ? undefined : model.parse(raw, REMOTE);
  }

  /** @param {any} model */
  destroy(model) {
    if (destroyed.has(model)) return;
    destroyed.add(model);
    model.trigger('destroy', model, model.collection, REMOTE);
  }

  /**
   * The reply to the fetch of one model.
   * @param {any} model
   * @param {any} response
   * @param {any} _options
   * @param {() => void} succeed lets Backbone have it
   * @param {any} [meta] the model's revision
   */
  received(model, response, _options, succeed, meta) {
    const before = this.replica.truth(model.id);
    succeed();
    if (model.isNew() || typeof response !== 'object' || response === null) return;
    this.replica.learn(model.id, response, meta?.r ?? undefined);
    if (before !== undefined) this.merge(model, response, before);
    this.reassert(model);
  }

  /**
   * The reply to a fetch from before everything was read anew: Backbone may have it, but it says nothing any more.
   * @param {any} model what was fetched
   * @param {() => void} succeed
   */
  receivedLate(model, succeed) {
    succeed();
    this.reconcile(model, undefined);
  }

  /**
   * Read everything again; the reply to an earlier such read, should it still come, says nothing then.
   * @param {any} options how to fetch
   * @returns {Promise<void>}
   */
  fetch(options) {
    return new Promise((resolve, reject) => {
      const done = { success: () => resolve(), error: (/** @type {any} */ _, /** @type {any} */ err) => reject(err) };
      this.resync = { mirror: this, cancel: resolve };
      this.target.fetch({ ...options, ...done, resync: this.resync, remote: true });
    });
  }

  /** @param {any} options of a fetch @returns {boolean} whether its reply is of no use any more */
  obsolete({ resync }) {
    const obsolete = resync?.mirror === this && resync !== this.resync;
    if (obsolete) resync.cancel();
    return obsolete;
  }

  /** @param {any} _raw @returns {any} @abstract */
  idOf(_raw) {}

  /** @param {any} _model @returns {boolean} whether another instance stands for this model */
  replaced(_model) {
    return false;
  }

  /** @param {any} _id @returns {boolean} */
  concerns(_id) {
    return true;
  }

  /**
   * Make the change that a notification tells of.
   * @param {string} _method
   * @param {any} _id
   * @param {any} _raw
   * @param {any} _before what the server held earlier
   * @param {any} [_maker] the model whose own write it is
   * @abstract
   */
  change(_method, _id, _raw, _before, _maker) {}

  /** @param {Write} _write @abstract */
  undo(_write) {}
}
