import { delivering } from './deliver.js';

/** What would change a list that is the server's. */
const CHANGING = ['add', 'remove', 'reset', 'push', 'pop', 'shift', 'unshift', 'create', 'fetch'];

/**
 * The members of a channel as a Backbone collection, whose models have `key`, `card`, `state` and `connections`. It is read-only but
 * for the own presence: `join(state, options)`, `set(state)`, `leave()`, as of `handle.presence`; `me` is the own member.
 *
 * @param {any} Backbone
 * @param {import('../core/handle.js').Handle} handle
 * @returns {any}
 */
export function presentIn(Backbone, handle) {
  const { presence } = handle;
  const refuse = (/** @type {string} */ name) => () => {
    throw new Error(`presence.${name}: who is present is the server's to say; there are join(state), set(state) and leave()`);
  };
  const Member = Backbone.Model.extend({ idAttribute: 'key', sync: refuse('sync') });
  const members = new Backbone.Collection([], { model: Member });
  const own = {
    join: (/** @type {any} */ state, /** @type {any} */ options) => presence.join(state, options),
    set: (/** @type {any} */ state) => presence.set(state),
    leave: () => presence.leave(),
    ...Object.fromEntries(CHANGING.map((name) => [name, refuse(name)])),
  };
  for (const [name, value] of Object.entries(own)) Object.defineProperty(members, name, { value });
  Object.defineProperty(members, 'me', { get: () => members.get(presence.me) });
  const { set } = Backbone.Collection.prototype;
  presence.on('update', () => delivering(() => set.call(members, [...presence].map((member) => ({ ...member })))));
  presence.on('error', (err) => delivering(() => members.trigger('error', members, err, {})));
  return members;
}
