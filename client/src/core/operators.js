/** @type {(held: any, number: any) => any} */
const sum = (held, number) => (typeof number === 'number' && typeof (held ?? 0) === 'number' ? (held ?? 0) + number : held);

/** @type {(held: any, text: any) => any} */
const joined = (held, text) => (typeof text === 'string' && typeof (held ?? '') === 'string' ? (held ?? '') + text : held);

/**
 * What a patch may have beside the fields that it sets: objects by these keys, which say by the names of fields what the server
 * is to add to whatever it holds. Each with what that comes to here; to what is held where nobody can know.
 * @type {Record<string, (held: any, operand: any) => any>}
 */
const OPERATORS = { $inc: sum, $append: joined };

/** @param {any} patch @returns {boolean} whether it has any of them */
export const hasOperators = (patch) => typeof patch === 'object' && patch !== null && Object.keys(OPERATORS).some((name) => name in patch);

/** @param {any} patch @returns {any} what it sets alone */
export function setsOf(patch) {
  if (!hasOperators(patch)) return patch;
  return Object.fromEntries(Object.entries(patch).filter(([name]) => !Object.hasOwn(OPERATORS, name)));
}

/**
 * @param {any} patch
 * @returns {Map<string, (held: any) => any>} what its operators make of fields, by name
 */
export function operationsIn(patch) {
  /** @type {Map<string, (held: any) => any>} */
  const found = new Map();
  for (const [operator, combine] of Object.entries(OPERATORS)) {
    for (const [field, operand] of Object.entries(patch?.[operator] ?? {})) found.set(field, (held) => combine(held, operand));
  }
  return found;
}
