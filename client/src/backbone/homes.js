/**
 * The bound collection that a model was in last: what has left it, because it was refused or does not fit, still has its
 * backend, and comes back when it is saved.
 *
 * @type {WeakMap<object, any>}
 */
export const homes = new WeakMap();
