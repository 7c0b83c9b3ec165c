"""HTTP around Socket.IO: admission, assets, probes, and connections without a request."""
