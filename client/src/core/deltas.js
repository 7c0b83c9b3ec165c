import { passing } from './errors.js';

/**
 * Events that tell what a write changed (`patch`) made into such as tell whole records, which is all that mirrors and listeners
 * know. The record that one builds on is what a mirror holds, or what was told last; else the model is read.
 *
 * @typedef {import('./handle.js').News} News
 * @typedef {import('./follower.js').Meta} Meta
 * @typedef {{rev?: number, raw?: any}} Known what is known of a model: of one that is gone `raw` is undefined
 *
 * @typedef {object} Owner
 * @property {() => boolean} busy whether anything is being read that says what the models are
 * @property {(id: any) => Known[]} known what mirrors know of a model
 * @property {(id: any, news: News) => boolean} wants whether anything needs a model that nobody knows
 * @property {(name: string, id: any, done: (err: any, raw?: any, meta?: any) => void) => void} read read one model
 * @property {(list: News[]) => void} tell
 * @property {(whole: boolean) => void} lost everything must be told again, with `whole` records from now on
 */

/** How many records are remembered that were told last, for those who listen and hold nothing; and revisions that were let go. */
const RECENT = 100;
const MISSED = 1000;

/** How many of these events wait for the end of a reading. */
const HELD = 10_000;

export class Deltas {
  #owner;
  /** The name of the id in the server's records, once any of these events has come: it comes first there. @type {string | undefined} */
  #name = undefined;
  /** @type {Map<string, Known>} */
  #recent = new Map();
  /** The revisions of what nobody wanted: what is told of an older one is not up to date. @type {Map<string, number>} */
  #missed = new Map();
  /** What waits until its model is read. @type {Map<string, News[]>} */
  #awaited = new Map();
  /** What waits until all is read. @type {News[]} */
  #held = [];
  /** Grows when everything is to be told again: what was asked for before says nothing then. */
  #era = 0;

  /** @param {Owner} owner */
  constructor(owner) {
    this.#owner = owner;
  }

  /** @param {News[]} list @returns {News[]} the same with whole records, as far as they are known by now */
  whole(list) {
    this.#name ??= nameIn(list.find(({ method }) => method === 'patch')?.raw);
    if (this.#name === undefined) return list;
    return list.flatMap((news) => (news.method === 'patch' ? this.#made(news) : this.#passed(news)));
  }

  /** Something was read. @returns {void} */
  released() {
    if (this.#held.length === 0 || this.#owner.busy()) return;
    this.#owner.tell(this.#held.splice(0));
  }

  /** @param {News} news what a write changed @returns {any} the record that it came to, where that is known by now */
  now(news) {
    this.#name ??= nameIn(news.raw);
    const id = this.#idOf(news);
    if (this.#owner.busy() || this.#awaited.has(String(id))) return undefined;
    const from = this.#known(id, news).find(({ rev, raw }) => rev === news.meta?.b && raw !== undefined);
    return from && patched(from.raw, news);
  }

  /** Everything is read anew: what is known says nothing any more. */
  restart() {
    this.#era += 1;
    this.#recent.clear();
    this.#missed.clear();
    this.#awaited.clear();
    this.#held = [];
  }

  /** @param {News} news @returns {News[]} */
  #made(news) {
    if (this.#owner.busy()) {
      if (this.#held.length < HELD) this.#held.push(news);
      else this.#owner.lost(false);
      return [];
    }
    const id = this.#idOf(news);
    const key = String(id);
    const rev = Number(news.meta?.r);
    const waiting = this.#awaited.get(key);
    if (waiting) {
      waiting.push(news);
      return [];
    }
    const raw = this.now(news);
    if (raw) return this.#passed({ ...news, method: 'update', raw });
    const known = this.#known(id, news);
    const isBehind = known.some((one) => !(Number(one.rev) >= rev));
    if (isBehind || (known.length === 0 && this.#owner.wants(id, news))) this.#read(id, news);
    else if (known.length === 0) remember(this.#missed, key, rev, MISSED);
    return [];
  }

  /** @param {any} id @param {News} news @returns {Known[]} what is known of its model, but for deletions before it */
  #known(id, { meta }) {
    const recent = this.#recent.get(String(id));
    const known = recent ? [...this.#owner.known(id), recent] : this.#owner.known(id);
    return known.filter(({ rev, raw }) => raw !== undefined || Number(rev) >= Number(meta?.r));
  }

  /** @param {News} news @returns {any} */
  #idOf({ raw }) {
    return raw?.[/** @type {string} */ (this.#name)];
  }

  /** @param {News} news with a whole record, or a deletion @returns {News[]} */
  #passed(news) {
    const id = this.#idOf(news);
    const key = String(id);
    const rev = news.meta?.r;
    if (rev === undefined || news.method === 'delete') this.#recent.delete(key);
    else if (!(Number(this.#recent.get(key)?.rev) > rev)) remember(this.#recent, key, { rev, raw: news.raw }, RECENT);
    const missed = this.#missed.get(key);
    if (missed === undefined) return [news];
    this.#missed.delete(key);
    if (news.method !== 'delete' && !(Number(rev) >= missed)) this.#read(id, news);
    return [news];
  }

  /** @param {any} id @param {News} news what shows that it is needed */
  #read(id, news) {
    const [key, name] = [String(id), /** @type {string} */ (this.#name)];
    const era = this.#era;
    this.#awaited.set(key, [news]);
    this.#owner.read(name, id, (err, raw, meta) => {
      if (era !== this.#era) return;
      const waiting = this.#awaited.get(key) ?? [];
      this.#awaited.delete(key);
      // What takes it away is still to come.
      if (err?.name === 'NotFound') return;
      if (err || typeof meta?.r !== 'number' || raw?.[name] !== id) {
        this.#owner.lost(!(err && passing(err)));
        return;
      }
      // No stream has told it: whoever shows some records alone looks whether it is one.
      const read = { method: 'update', raw, meta: { .../** @type {Meta} */ (news.meta), s: '*', r: meta.r } };
      this.#owner.tell([read, ...waiting.filter((one) => one.method === 'patch' && Number(one.meta?.r) > meta.r)]);
    });
  }
}

/** @param {any} raw what a write changed @returns {string | undefined} the name of the id */
function nameIn(raw) {
  return Object.keys(raw ?? {})[0];
}

/**
 * @param {any} raw a record
 * @param {News} news what changed of it
 * @returns {any} the record that it came to; undefined where that cannot be
 */
export function patched(raw, { raw: sets, meta }) {
  const made = { ...raw, ...sets };
  for (const name of meta?.unset ?? []) delete made[name];
  for (const [name, text] of Object.entries(meta?.append ?? {})) {
    if (typeof raw[name] !== 'string') return undefined;
    made[name] = raw[name] + text;
  }
  return made;
}

/** @template T @param {Map<string, T>} map @param {string} key @param {T} value @param {number} most */
function remember(map, key, value, most) {
  map.delete(key);
  map.set(key, value);
  if (map.size > most) map.delete(/** @type {string} */ (map.keys().next().value));
}
