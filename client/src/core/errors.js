/**
 * What a failed sync rejects with: the server's error object, or one made here (`Timeout`, `Busy`, ...).
 */
export class SyncError extends Error {
  /**
   * @param {{name?: string, message?: string, code?: number, [detail: string]: any}} fields what the server sent
   */
  constructor(fields) {
    super();
    const { name = 'SyncError', message = '', ...details } = fields;
    for (const [key, value] of Object.entries({ name, message, ...details })) {
      Object.defineProperty(this, key, { value, enumerable: true, writable: true, configurable: true });
    }
  }
}
