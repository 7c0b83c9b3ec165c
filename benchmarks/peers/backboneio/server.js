// The service of the benchmark on backbone.io 0.4.2, the library that bbio takes its wire protocol from.
'use strict';
const http = require('node:http');
const backboneio = require('backbone.io');

const records = new Map();
let lastId = 0;

const messages = backboneio.createBackend();
messages.create((req, res) => {
  req.model.id = ++lastId;
  records.set(req.model.id, req.model);
  res.end(req.model);
});
messages.read((req, res) => res.end(req.model.id === undefined ? [...records.values()] : records.get(req.model.id)));
messages.update((req, res) => {
  records.set(req.model.id, req.model);
  res.end(req.model);
});

const server = http.createServer();
server.listen(Number(process.argv[2]), '127.0.0.1');
const io = backboneio.listen(server, { '/messages': messages });
io.set('log level', 0);
