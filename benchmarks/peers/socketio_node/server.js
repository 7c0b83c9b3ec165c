// The service of the benchmark, written by hand on Socket.IO: what a Node developer would do without a framework.
'use strict';
const http = require('node:http');
const { Server } = require('socket.io');

const records = new Map();
let lastId = 0;

const methods = {
  create(model) {
    model.id = ++lastId;
    records.set(model.id, model);
    return model;
  },
  read: (model) => (model && model.id !== undefined ? records.get(model.id) : [...records.values()]),
  update(model) {
    records.set(model.id, model);
    return model;
  },
  delete(model) {
    records.delete(model.id);
    return model;
  },
};

const server = http.createServer();
const io = new Server(server);

io.of('/messages').on('connection', (socket) => {
  let channel = null;

  socket.on('listen', (name, ack) => {
    channel = name;
    if (name) socket.join(name);
    ack({ event: 'backend' });
  });

  socket.on('sync', (request, ack) => {
    const method = methods[request.method];
    if (!method) return ack({ error: { name: 'BadRequest', message: 'unknown method' } });
    const result = method(request.model);
    ack(null, result);
    if (request.method === 'read') return;
    (channel ? socket.to(channel) : socket.broadcast).emit('synced', request.method, result);
  });
});

server.listen(Number(process.argv[2]), '127.0.0.1');
