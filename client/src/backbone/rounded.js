/** Said of ids past 2^53. */
export const ROUNDED = 'JavaScript rounds ids past 2^53; have the server give them as texts';

/** @param {any} id @returns {boolean} whether the server may have sent another number */
export const isRounded = (id) => Number.isInteger(id) && !Number.isSafeInteger(id);

/** @returns {(models: any[]) => void} looks at models that the server has told of, and warns of their ids, once */
export function lookout() {
  let warned = false;
  return (models) => {
    if (warned || !models.some(({ id }) => isRounded(id))) return;
    warned = true;
    console.warn(`bbio: ${ROUNDED}; two models may look like one, and cannot be saved`);
  };
}
