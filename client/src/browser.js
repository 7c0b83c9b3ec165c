globalThis.bbio = {};
