import { SyncError } from '../core/errors.js';
import { same, snapshot } from '../core/json.js';
import { shownBy } from './shown.js';

/**
 * A create that has no answer yet. What the page does with its model meanwhile waits for the id: a save becomes an update
 * of what was created, and a destroy deletes it. If the create is refused, the next save is the create.
 *
 * @typedef {object} Step
 * @property {string} method `create`, as Backbone sees it, or `delete`
 * @property {any} sent the model as it was then
 * @property {(method: string, sent: any, rev: number | undefined) => void} send
 * @property {(err: any) => void} failed
 * @property {() => void} spared there is nothing to be deleted
 *
 * @typedef {object} Creation
 * @property {import('../core/handle.js').Handle} handle
 * @property {any} sent
 * @property {Record<string, any>} attributes those of the model when it was sent
 * @property {Step[]} steps
 */

/** @type {WeakMap<object, Creation>} */
const creations = new WeakMap();

/** @param {any} model @param {import('../core/handle.js').Handle} handle @returns {Creation | undefined} */
export function creationOf(model, handle) {
  const creation = creations.get(model);
  return creation?.handle === handle ? creation : undefined;
}

/** @param {any} model @param {import('../core/handle.js').Handle} handle @param {any} sent */
export function creating(model, handle, sent) {
  const creation = { handle, sent, attributes: snapshot({ ...model.attributes }), steps: /** @type {Step[]} */ ([]) };
  creations.set(model, creation);
  return creation;
}

/** @param {Creation} creation @param {Step} step */
export function follow(creation, step) {
  const { queueLimit } = creation.handle.session.connection;
  if (creation.steps.length < queueLimit) creation.steps.push(step);
  else {
    const message = `${queueLimit} changes wait for the id of one model already`;
    setTimeout(() => step.failed(new SyncError({ name: 'Busy', message, code: 429, retry_after: 1 })));
  }
}

/** @param {any} err @returns {boolean} whether the server has certainly not done what it answers with this */
const isDefinite = (err) => err.code >= 400 && err.code < 500 && !['Timeout', 'UnknownOutcome'].includes(err.name);

/**
 * The create was answered.
 * @param {any} model
 * @param {{err?: any, raw?: any}} outcome
 */
export function created(model, { err, raw }) {
  const creation = creations.get(model);
  if (!creation) return;
  creations.delete(model);
  const { handle, sent, steps } = creation;
  for (let step = steps.shift(); step; step = steps.shift()) {
    if (!err) step.send(step.method === 'delete' ? 'delete' : 'update', rebased(raw, sent, step.sent), shownBy(model, handle)?.rev);
    else if (!isDefinite(err)) step.failed(err);
    else if (step.method === 'delete') step.spared();
    else {
      creating(model, handle, step.sent).steps.push(...steps);
      step.send('create', step.sent, undefined);
      return;
    }
  }
}

/**
 * What was changed of a model since it was sent, made on top of what the server has made of it.
 * @param {any} raw the record
 * @param {any} before the model as it was sent
 * @param {any} after as it was later
 */
function rebased(raw, before, after) {
  const result = { ...after, ...raw };
  for (const key of Object.keys({ ...before, ...after })) {
    if (same(before[key], after[key])) continue;
    if (key in after) result[key] = after[key];
    else delete result[key];
  }
  return result;
}
