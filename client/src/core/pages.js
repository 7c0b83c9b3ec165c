import { isObject } from './ordering.js';
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
 * So many of the records that a query with a limit finds, page by page.
 * @param {import('./handle.js').Handle} handle
 * @param {import('./handle.js').Spec} spec
 * @param {number} count how many, at least
 * @param {string | undefined} cursor where to go on; from the beginning by default
 * @param {(err: any, parts: Part[]) => void} done
 */
export function readOn(handle, spec, count, cursor, done) {
  next(cursor, []);

  /** @param {string | undefined} from @param {Part[]} parts those before */
  function next(from, parts) {
    const data = { ...spec.options?.data, ...(from !== undefined && { $cursor: from }) };
    // Who reads on knows the total, or does not want to.
    if (from !== undefined) for (const word of ['count', '$count']) if (!isObject(data[word])) delete data[word];
    handle.request({ ...spec, options: { ...spec.options, data } }, (err, result, meta) => {
      const all = [...parts, { result, meta }];
      const found = all.reduce((sum, part) => sum + (part.result?.length ?? 0), 0);
      if (err || found >= count || !result?.length || (meta?.next ?? null) === null) done(err, all);
      else next(meta.next, all);
    });
  }
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
  const whole = { ...meta, ...(data !== undefined && { next: parts.at(-1)?.meta?.next ?? null }), r: parts.flatMap((part) => part.meta?.r ?? []) };
  return { result: parts.flatMap(({ result }) => result), meta: whole };
}
