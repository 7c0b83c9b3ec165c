// The service of the benchmark on Feathers 5: a service for the records, one to join a channel, and a publisher.
'use strict';
const { feathers } = require('@feathersjs/feathers');
const socketio = require('@feathersjs/socketio');

const records = new Map();
let lastId = 0;

class Messages {
  async create(data) {
    const record = { ...data, id: ++lastId };
    records.set(record.id, record);
    return record;
  }
  async get(id) {
    return records.get(id);
  }
  async update(id, data) {
    const record = { ...data, id };
    records.set(id, record);
    return record;
  }
}

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
app.use('messages', new Messages());
app.use('channels', new Channels(app));
app.service('messages').publish((data, { app, params: { connection } }) =>
  app.channel(connection.channel).filter((other) => other !== connection),
);

app.listen(Number(process.argv[2]), '127.0.0.1');
