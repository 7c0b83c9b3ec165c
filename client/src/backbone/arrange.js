/**
 * Have a collection show records in an order: some leave, some come in, the others move to their places. What the page has
 * besides stays where it is, and a collection with a comparator keeps to that.
 *
 * @param {any} target the collection
 * @param {object} change
 * @param {any[]} change.leaving models
 * @param {string[]} change.ids what it shows, in order
 * @param {Map<string, any>} change.made models that come in, by id
 * @param {Record<string, any>} change.options of Backbone's methods
 */
export function arrange(target, { leaving, ids, made, options }) {
  if (leaving.length > 0) target.remove(leaving, options);
  if (target.comparator) {
    if (made.size > 0) target.add([...made.values()], options);
    return;
  }
  sort(target, ids, options);
  // What follows one another comes in together, as soon as what is before it is there.
  /** @type {any[]} */
  let run = [];
  let before = /** @type {any} */ (undefined);
  const enter = () => {
    if (run.length > 0) target.add(run, { ...options, at: before ? target.indexOf(before) + 1 : 0 });
    run = [];
  };
  for (const id of ids) {
    const model = made.get(id);
    if (model) run.push(model);
    else if (target.get(id)) {
      enter();
      before = target.get(id);
    }
  }
  enter();
}

/** @param {any} target @param {string[]} ids @param {Record<string, any>} options */
function sort(target, ids, options) {
  const places = new Map(ids.map((id, place) => [target.get(id), place]));
  const placeOf = (/** @type {any} */ model) => /** @type {number} */ (places.get(model));
  const { models } = target;
  const ours = models.filter((/** @type {any} */ model) => places.has(model));
  if (ours.every((/** @type {any} */ model, /** @type {number} */ n) => n === 0 || placeOf(ours[n - 1]) < placeOf(model))) return;
  ours.sort((/** @type {any} */ a, /** @type {any} */ b) => placeOf(a) - placeOf(b));
  let n = 0;
  for (const [index, model] of models.entries()) if (places.has(model)) models[index] = ours[n++];
  target.trigger('sort', target, options);
}
