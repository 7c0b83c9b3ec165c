/**
 * Report what the application's code has thrown, as an uncaught error; whoever called that code goes on.
 * @param {any} err
 */
export function report(err) {
  const page = /** @type {any} */ (globalThis);
  if (typeof page.reportError === 'function') page.reportError(err);
  else setTimeout(() => { throw err; });
}

/**
 * Call code of the application's; what it throws is reported.
 * @template T
 * @param {() => T} call
 * @returns {T | undefined}
 */
export function guarded(call) {
  try {
    return call();
  } catch (err) {
    report(err);
    return undefined;
  }
}
