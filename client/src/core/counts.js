/** The key of a patch under which it counts: numbers by the names of fields, which the server adds to what it holds. */
export const COUNTS = '$inc';

/**
 * @param {any} patch
 * @returns {any} what it sets alone
 */
export function uncounted(patch) {
  if (typeof patch !== 'object' || patch === null || !(COUNTS in patch)) return patch;
  const { [COUNTS]: _, ...sets } = patch;
  return sets;
}
