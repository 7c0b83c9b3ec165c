import { said } from './query.js';

/**
 * All that a read asks for, page by page where that is more than the server tells at once.
 *
 * @typedef {{result: any, meta: any}} Part an answer, with its third argument
 *
 * @param {import('./handle.js').Handle} handle
 * @param {import('./handle.js').Spec} spec
 * @param {(err: any, parts: Part[]) => void} done
 * @returns {{abort: (err: any) => void}} `abort`: fail with an error, unless it is done
 */
export function readAll(handle, spec, done) {
  let under = handle.request(spec, first);

  /** @param {any} err @param {any} result @param {any} meta */
  function first(err, result, meta) {
    const limit = err?.page_limit;
    const data = spec.options?.data ?? {};
    if (typeof limit !== 'number' || said(data, 'limit') !== undefined) done(err, [{ result, meta }]);
    else next(limit, undefined, []);
  }

  /** @param {number} limit @param {string | undefined} cursor @param {Part[]} parts those before */
  function next(limit, cursor, parts) {
    const data = { ...spec.options?.data, $limit: limit, ...(cursor !== undefined && { $cursor: cursor }) };
    under = handle.request({ ...spec, options: { ...spec.options, data } }, (err, result, meta) => {
      const all = [...parts, { result, meta }];
      if (err || (meta?.next ?? null) === null) done(err, all);
      else next(limit, meta.next, all);
    });
  }

  return { abort: (err) => under.abort(err) };
}

/**
 * Parts as one answer.
 * @param {Part[]} parts
 * @param {any} data the query
 * @returns {Part}
 */
export function joined(parts, data) {
  const [only] = parts;
  if (parts.length === 1) return only;
  const { next: _, ...meta } = parts[0].meta;
  const whole = { ...meta, ...(data !== undefined && { next: null }), r: parts.flatMap((part) => part.meta?.r ?? []) };
  return { result: parts.flatMap(({ result }) => result), meta: whole };
}
