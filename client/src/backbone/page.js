/** What collections were told of the page that they have. */
const pages = new WeakSet();

/**
 * Tell of the page that a fetch came to; a property of that name that is the application's own stays as it is.
 * @param {any} collection
 * @param {any} options of the fetch
 * @param {any} meta what the server said of its reply
 */
export function turnPage(collection, options, meta) {
  if (meta?.next !== undefined) {
    options.page = collection.page = { next: meta.next, ...('total' in meta && { total: meta.total }) };
    pages.add(options.page);
  } else if (pages.has(collection.page)) {
    delete collection.page;
  }
}
