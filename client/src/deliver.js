import { report } from './core/report.js';

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
  /** @this {any} @param {string} name @param {...any} args */
  return function trigger(name, ...args) {
    if (depth === 0 || typeof name !== 'string' || name.includes(' ')) return original.apply(this, [name, ...args]);
    const { [name]: own, all } = this._events ?? {};
    const rest = all && [...all];
    if (own) each(own, args);
    if (rest) each(rest, [name, ...args]);
    return this;
  };
}

/** @param {{callback: Function, ctx: any}[]} listeners @param {any[]} args */
function each(listeners, args) {
  for (const { callback, ctx } of [...listeners]) {
    try {
      callback.apply(ctx, args);
    } catch (err) {
      report(err);
    }
  }
}
