import { report } from '../core/report.js';

/**
 * Events that come from the server, or from an answer of its: what one listener throws is reported, and costs no other
 * listener its event, nor a model its change.
 */

let depth = 0;

/**
 * Make changes whose events are delivered in that way.
 * @template T
 * @param {() => T} change
 * @returns {T}
 */
export function delivering(change) {
  depth += 1;
  try {
    return change();
  } finally {
    depth -= 1;
  }
}

/**
 * @param {(...args: any[]) => any} original Backbone's own `trigger`
 * @returns {(...args: any[]) => any} one that does the same, except while something is delivered
 */
export function delivered(original) {
  /** @this {any} @param {...any} args the event's name first */
  return function trigger(...args) {
    const [name] = args;
    if (depth === 0 || typeof name !== 'string' || name.includes(' ')) return original.apply(this, args);
    if (!this._events) return this;
    const { [name]: own, all } = this._events;
    // Who begins to listen meanwhile is not called; for who stops, Backbone makes another list.
    const count = all?.length;
    if (own) each(own, own.length, args.slice(1));
    if (all) each(all, count, args);
    return this;
  };
}

/** @param {{callback: Function, ctx: any}[]} listeners @param {number} count how many of them @param {any[]} args */
function each(listeners, count, args) {
  for (let n = 0; n < count; n += 1) {
    const { callback, ctx } = listeners[n];
    try {
      callback.apply(ctx, args);
    } catch (err) {
      report(err);
    }
  }
}
