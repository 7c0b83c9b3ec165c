// The service of the benchmark on Feathers 5: its store in memory, a service to join a channel, and a publisher.
'use strict';
const { feathers } = require('@feathersjs/feathers');
const { MemoryService } = require('@feathersjs/memory');
const socketio = require('@feathersjs/socketio');

class Channels {
  constructor(app) {
    this.app = app;
  }
  async create({ name }, { connection }) {
    this.app.channel(name).join(connection);
    connection.channel = name;
    return { name };
  }
}

const app = feathers();
app.configure(socketio());
app.use('messages', new MemoryService({ startId: 1 }));
app.use('channels', new Channels(app));
app.service('messages').publish((data, { app, params: { connection } }) =>
  app.channel(connection.channel).filter((other) => other !== connection),
);

app.listen(Number(process.argv[2]), '127.0.0.1');
