/**
 * Positions that outlive the page, in the tab's sessionStorage. Where there is none, or it is full or forbidden,
 * positions simply do not outlive the page.
 *
 * @param {string} key
 * @returns {Record<string, import('./follower.js').Position> | undefined}
 */
export function recall(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key) ?? 'null') ?? undefined;
  } catch {
    return undefined;
  }
}

/** @param {string} key @param {Record<string, import('./follower.js').Position>} since */
export function remember(key, since) {
  try {
    sessionStorage.setItem(key, JSON.stringify(since));
  } catch {
    // As said above.
  }
}
