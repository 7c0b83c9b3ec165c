import { clone, same, snapshot } from '../core/json.js';
import { Replica } from '../core/replica.js';
import { guarded } from '../core/report.js';
import { rebuilt } from './operators.js';
import { delivering } from './deliver.js';
import { lost, note, shownBy, takesPlainly } from './shown.js';
import { isPending, isWaiting, pendingOn, writesOf } from './writes.js';

/**
 * A bound collection or model: it takes what the backend tells, knows what the server holds, and undoes local changes
 * that the server refuses.
 *
 * @typedef {import('../core/follower.js').Meta} Meta
 * @typedef {import('./writes.js').Write} Write
 * @typedef {{method: string, raw: any, meta?: Meta, maker?: any}} News `maker`: the model whose own write it is
 * @typedef {object} Turn what is to be done about some news
 * @property {any} id
 * @property {string} method what has become of the model
 * @property {any} truth the model as it is
 * @property {number | undefined} rev its revision
 * @property {any} [maker]
 * @property {string} [stream] that it was told in
 * @property {News | undefined} announced what the application is to hear
 */

/** Passed with every change that comes from the server, for listeners that tell the two apart. */
export const REMOTE = { remote: true };

/** What became of a model that is there, but not for this client. */
export const LEAVE = 'leave';

/** Models whose `destroy` was triggered and that have not come back; one that is bound twice is destroyed once. */
export const destroyed = new WeakSet();

export class Mirror {
  replica = new Replica();
  /** @type {Set<Write>} */
  pending = new Set();
  /** The latest reading of everything. */
  reading = 0;

  /**
   * @param {any} target the bound collection or model
   * @param {import('../core/handle.js').Handle} handle
   */
  constructor(target, handle) {
    this.target = target;
    this.handle = handle;
  }

  /** The target is bound. */
  start() {}

  /** It no longer is. */
  stop() {}

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    if (event === 'error') delivering(() => this.target.trigger('error', this.target, args[0], {}));
    else if (event !== 'listening') this.trigger(event, ...args);
  }

  /** @param {string} event @param {...any} args */
  trigger(event, ...args) {
    delivering(() => this.target.trigger(`${this.handle.prefix}:${event}`, ...args));
  }

  /**
   * Take notifications, in order; while something is read they wait.
   * @param {News[]} list
   */
  apply(list) {
    this.take(list.filter((news) => !this.replica.keep(news)));
  }

  /**
   * Make as many changes in one go as can be; those of one model are made one after the other.
   * @param {News[]} list
   * @param {boolean} [again] make changes even when they are known: a read may have undone them
   */
  take(list, again = false) {
    /** @type {Map<any, Turn>} */
    let round = new Map();
    for (const news of list) {
      const id = this.idOf(news.raw);
      if (!this.concerns(id)) continue;
      const key = id === undefined ? news : String(id);
      if (round.has(key)) {
        this.#carryOut([...round.values()]);
        round = new Map();
      }
      const turn = this.#weigh(id, news, again);
      if (turn) round.set(key, turn);
    }
    if (round.size > 0) this.#carryOut([...round.values()]);
  }

  /** @param {any} id @param {News} news @param {boolean} again @returns {Turn | undefined} */
  #weigh(id, news, again) {
    const { method, raw, meta, maker } = news;
    // Of a delete the id alone is told; what was there is known here.
    const gone = method === 'delete' && id !== undefined ? this.replica.truth(id) : undefined;
    const isNews = id === undefined || this.replica.accept(id, method === 'delete' ? undefined : raw, meta?.r);
    // Streams overtake each other: an update may come before the create that lets the model in.
    if (!isNews && !again && method !== 'create') return undefined;
    const truth = id === undefined ? raw : this.replica.truth(id);
    const announced = !isNews || maker ? undefined : gone ? { method, raw: { ...gone, ...raw } } : news;
    return { id, method: truth === undefined ? 'delete' : method, truth, rev: this.replica.at(id), maker, stream: meta?.s, announced };
  }

  /** @param {Turn[]} turns */
  #carryOut(turns) {
    delivering(() => this.change(turns));
    const { prefix } = this.handle;
    for (const { announced } of turns) {
      if (!announced) continue;
      this.#announce(prefix, announced, [announced.method]);
      this.#announce(`${prefix}:${announced.method}`, announced, []);
    }
  }

  /** @param {string} event @param {News} announced @param {any[]} args what comes before the record, a copy of which each listener may change */
  #announce(event, { raw }, args) {
    const { target } = this;
    if (target._events?.[event] || target._events?.all) delivering(() => target.trigger(event, ...args, clone(raw)));
  }

  /**
   * A write of the target's own succeeded.
   * @param {any} model
   * @param {string} method
   * @param {any} raw the record
   * @param {Meta} [meta]
   */
  acked(model, method, raw, meta) {
    const id = this.idOf(raw);
    if (id === undefined) return;
    this.replica.keep({ method, raw, meta, maker: model });
    this.replica.accept(id, method === 'delete' ? undefined : raw, meta?.r);
  }

  /** A read that was sent has ended: what was told meanwhile may be applied. */
  release() {
    const pending = this.replica.release();
    for (const { method, raw, meta, maker } of pending) {
      if (maker) this.replica.learn(this.idOf(raw), method === 'delete' ? undefined : raw, meta?.r);
    }
    this.take(pending, true);
    if (this.replica.reading) return;
    if (this.replica.overflown) {
      this.replica.overflown = false;
      this.handle.reread(false);
    } else this.handle.released();
  }

  /** @param {any} id @returns {import('../core/deltas.js').Known | undefined} what is known of a model, of one that is merely shown nothing */
  known(id) {
    const raw = this.replica.truth(id);
    const rev = raw === undefined ? this.replica.rev(id) : this.replica.at(id);
    if (rev !== undefined || raw !== undefined) return { rev, raw };
    return this.shows(id) ? { raw: {} } : undefined;
  }

  /** @param {any} _id @returns {boolean} whether it may show a model of which it knows no record */
  shows(_id) {
    return false;
  }

  /**
   * What to set a model to, so that it shows a record; attributes with a change that waits stay.
   * @param {any} model
   * @param {any} raw
   * @param {number | undefined} rev
   * @param {(key: string) => boolean} [keep] whether another attribute stays
   * @returns {{attributes: Record<string, any>, gone: string[]} | undefined} undefined when it shows that, or what is newer
   */
  merged(model, raw, rev, keep) {
    const before = shownBy(model, this.handle);
    if (before && (before.raw === raw || (rev !== undefined && before.rev !== undefined && rev <= before.rev))) return undefined;
    const input = clone(raw);
    const parsed = model.parse(input, { ...REMOTE }) ?? {};
    const plain = parsed === input && takesPlainly(model);
    note(model, this.handle, { rev: rev ?? before?.rev, raw, parsed, plain });
    // What the application's own gives may be kept by it.
    const attributes = plain ? parsed : { ...parsed };
    let gone = lost(model, before, parsed);
    if (keep || isWaiting(model)) {
      const stays = (/** @type {string} */ key) => isPending(model, key) || keep?.(key);
      gone = gone.filter((key) => !stays(key));
      const built = rebuilt(model, parsed);
      for (const key of Object.keys(attributes)) if (stays(key)) delete attributes[key];
      Object.assign(attributes, built);
    }
    return { attributes, gone };
  }

  /**
   * Have a model show a record.
   * @param {any} model
   * @param {any} raw
   * @param {number | undefined} rev
   * @param {(key: string) => boolean} [keep] whether an attribute stays as it is
   */
  show(model, raw, rev, keep) {
    const merged = this.merged(model, raw, rev, keep);
    if (!merged) return;
    unset(model, merged.gone);
    model.set(merged.attributes, REMOTE);
  }

  /** @param {any} model */
  destroy(model) {
    if (destroyed.has(model)) return;
    destroyed.add(model);
    delivering(() => model.trigger('destroy', model, model.collection, REMOTE));
  }

  /** @param {any} raw @returns {any} its id; undefined where the application's code cannot tell it, which is reported */
  idOf(raw) {
    return guarded(() => this.findId(raw));
  }

  /** @param {any} _raw @returns {any} @abstract */
  findId(_raw) {}

  /** @param {any} _id @returns {boolean} */
  concerns(_id) {
    return true;
  }

  /** @param {any} model @returns {boolean} whether it is the target, or in it */
  holds(model) {
    return model === this.target;
  }

  /** @param {Turn[]} _turns @abstract */
  change(_turns) {}

  /**
   * A created model is about to get its id.
   * @param {any} _model
   * @param {any} _raw
   */
  settle(_model, _raw) {}

  /**
   * The model shows the outcome of a write of its own, or what it was before that.
   * @param {any} _model
   * @param {string} _method
   * @param {boolean} [_passed] whether all that was true at that place has been told
   */
  place(_model, _method, _passed) {}

  /**
   * The server refused a change that had been made already.
   * @param {Write} _write
   * @param {any} _err
   */
  undo(_write, _err) {}

  /** @param {boolean} _renewed @returns {Promise<void>} @abstract */
  reread(_renewed) {
    return Promise.resolve();
  }
}

/**
 * The model was set to an answer: changes that still wait for theirs go on top.
 * @param {any} model
 * @param {import('../core/handle.js').Handle} handle
 */
export function reassert(model, handle) {
  rebuilt(model, shownBy(model, handle)?.base ?? {});
  for (const { mine } of writesOf(model)) for (const key of Object.keys(mine)) assign(model, key, mine);
}

/** @param {any} model @param {string} key @param {Record<string, any>} attributes where to find its value, if it has one */
export function assign(model, key, attributes) {
  if (attributes[key] !== undefined) model.set(key, snapshot(attributes[key]), REMOTE);
  else if (key in model.attributes) model.unset(key, REMOTE);
}

/** @param {any} model @param {string[]} gone attributes to take away */
export function unset(model, gone) {
  if (gone.length > 0) model.set(Object.fromEntries(gone.map((key) => [key, undefined])), { ...REMOTE, unset: true });
}

/**
 * Take back the attributes that a refused write has changed, except where the user has changed more since.
 * @param {any} model
 * @param {Record<string, any>} mine
 * @param {Record<string, any>} base what they go back to
 */
export function restore(model, mine, base) {
  for (const key of Object.keys(mine)) {
    // Another change of it may still wait, if this one was refused out of turn.
    if (same(model.get(key), mine[key])) assign(model, key, pendingOn(model, key)?.mine ?? base);
  }
}
