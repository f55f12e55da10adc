// rsocket-js as a caller or a service, driven by lines of JSON (see tests/interop/driving.py).
//
//     node peer.mjs caller URL composite|routing|none [FRAGMENT_BYTES]
//     node peer.mjs service URL NAME

import { createInterface } from "node:readline";
import metadataPackage from "rsocket-composite-metadata";
import core from "rsocket-core";
import tcp from "rsocket-tcp-client";
import websocket from "rsocket-websocket-client";
import WebSocket from "ws";

const { encodeCompositeMetadata, decodeCompositeMetadata, encodeRoutes, decodeRoutes, WellKnownMimeType } =
  metadataPackage;
const ANNOUNCEMENT = "message/x.rsocket-mesh.announce.v1+json";
const COMPOSITE = "message/x.rsocket.composite-metadata.v0";
const ROUTING = "message/x.rsocket.routing.v0";
const METADATA_TYPES = { composite: COMPOSITE, routing: ROUTING, none: "application/json" };
const UNBOUNDED = 0x7fffffff;

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const text = (payload) => (payload?.data ?? Buffer.alloc(0)).toString();
const bytes = (value) => Buffer.from(value ?? "");
const describe = (error) => ({ code: error.code ?? 0, text: error.message });

async function connect(url, metadataMimeType, { responder, metadata, fragment = 0 }) {
  const { protocol, hostname, port } = new URL(url);
  const transport =
    protocol === "tcp:"
      ? new tcp.TcpClientTransport({
          // Without noDelay, two small frames in a row wait 40 ms for each other.
          connectionOptions: { host: hostname, port: Number(port), noDelay: true },
        })
      : new websocket.WebsocketClientTransport({ url, wsCreator: (address) => new WebSocket(address) });
  const connector = new core.RSocketConnector({
    setup: {
      dataMimeType: "application/octet-stream",
      metadataMimeType,
      keepAlive: 5000,
      lifetime: 20000,
      payload: metadata ? { data: Buffer.alloc(0), metadata } : undefined,
    },
    fragmentation: { maxOutboundFragmentSize: fragment },
    responder,
    transport,
  });
  const socket = await connector.connect();
  socket.onClose((error) => say({ closed: error?.message ?? "", code: error?.code ?? 0 }));
  return socket;
}

// -- caller ---------------------------------------------------------------------------------------

/** What one stream brings; `wanted(n)` resolves at n items or at the end. */
class Items {
  items = [];
  ended = false;
  error = null;
  waiting = [];

  onNext(payload, isComplete) {
    this.items.push(text(payload));
    this.ended ||= isComplete;
    this.wake();
  }

  onComplete() {
    this.ended = true;
    this.wake();
  }

  onError(error) {
    this.ended = true;
    this.error = describe(error);
    this.wake();
  }

  onExtension() {}

  wanted(count) {
    return new Promise((resolve) => {
      this.waiting.push([count, resolve]);
      this.wake();
    });
  }

  wake() {
    const due = ([count]) => this.ended || this.items.length >= count;
    const woken = this.waiting.filter(due);
    this.waiting = this.waiting.filter((entry) => !due(entry));
    for (const [, resolve] of woken) resolve();
  }

  report() {
    return { items: this.items, ended: this.ended, error: this.error };
  }
}

/** A channel's consumer that is also asked for items: it sends the given ones within the credit. */
class ChannelItems extends Items {
  constructor(outgoing) {
    super();
    this.outgoing = outgoing;
  }

  request(n) {
    for (; n > 0 && this.outgoing.length > 0; n--) {
      const item = this.outgoing.shift();
      this.stream.onNext({ data: bytes(item) }, this.outgoing.length === 0);
    }
  }

  cancel() {
    this.outgoing = [];
  }
}

class Caller {
  constructor(socket, metadata) {
    this.socket = socket;
    this.metadata = metadata;
    this.streams = new Map();
  }

  payload({ data, tags }) {
    if (this.metadata === "none") return { data: bytes(data) };
    const routing = encodeRoutes(...tags);
    if (this.metadata === "routing") return { data: bytes(data), metadata: routing };
    return {
      data: bytes(data),
      metadata: encodeCompositeMetadata([[WellKnownMimeType.MESSAGE_RSOCKET_ROUTING, routing]]),
    };
  }

  response(command) {
    return new Promise((resolve) => {
      this.socket.requestResponse(this.payload(command), {
        onNext: (payload) => resolve({ data: text(payload) }),
        onComplete: () => resolve({ data: null }),
        onError: (error) => resolve({ error: describe(error) }),
        onExtension() {},
      });
    });
  }

  fire(command) {
    return new Promise((resolve) => {
      this.socket.fireAndForget(this.payload(command), {
        onComplete: () => resolve({}),
        onError: (error) => resolve({ error: describe(error) }),
      });
    });
  }

  async stream(command) {
    const items = new Items();
    items.stream = this.socket.requestStream(this.payload(command), command.credit ?? UNBOUNDED, items);
    return this.opened(command, items);
  }

  async channel(command) {
    const items = new ChannelItems([...command.items]);
    const noneFollow = command.items.length === 0;
    items.stream = this.socket.requestChannel(
      this.payload(command),
      command.credit ?? UNBOUNDED,
      noneFollow,
      items,
    );
    return this.opened(command, items);
  }

  async opened(command, items) {
    this.streams.set(command.id, items);
    await items.wanted(command.credit ?? UNBOUNDED);
    return items.report();
  }

  async more({ of, credit }) {
    const items = this.streams.get(of);
    const expected = items.items.length + credit;
    items.stream.request(credit);
    await items.wanted(expected);
    return items.report();
  }

  cancel({ of }) {
    const items = this.streams.get(of);
    items.stream.cancel();
    return items.report();
  }

  seen({ of }) {
    return this.streams.get(of).report();
  }

  push({ data }) {
    this.socket.metadataPush(bytes(data), {});
    return {};
  }
}

async function caller(url, metadata, fragment) {
  const options = { responder: {}, fragment: Number(fragment ?? 0) };
  const peer = new Caller(await connect(url, METADATA_TYPES[metadata], options), metadata);
  const answer = async (command) => {
    let result;
    try {
      result = await peer[command.do](command);
    } catch (error) {
      result = { error: describe(error) };
    }
    say({ id: command.id, ...result });
  };
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) answer(JSON.parse(line));
}

// -- service --------------------------------------------------------------------------------------

function methodOf(payload) {
  for (const entry of decodeCompositeMetadata(payload.metadata ?? Buffer.alloc(0))) {
    if (entry.mimeType === ROUTING) {
      const [route] = decodeRoutes(entry.content);
      return route.split(".").at(-1);
    }
  }
  return "";
}

/** An error that goes out under *code*: as compiled, RSocketError loses its class and its code. */
function failure(code, message) {
  return Object.setPrototypeOf(new core.RSocketError(code, message), core.RSocketError.prototype);
}

const stats = { yielded: 0, cancelled: 0, fired: [], pushed: [] };

const responder = {
  fireAndForget(payload, stream) {
    stats.fired.push(text(payload));
    stream.onComplete();
    return { cancel() {} };
  },

  requestResponse(payload, stream) {
    const silent = { cancel() {}, onExtension() {} };
    const answer = (value) => stream.onNext({ data: bytes(value) }, true);
    switch (methodOf(payload)) {
      case "fail":
        throw new Error(text(payload));
      case "reject":
        throw failure(core.ErrorCodes.REJECTED, text(payload));
      case "custom":
        throw failure(0x301, text(payload));
      case "never":
        return { ...silent, cancel: () => stats.cancelled++ };
      case "stats":
        answer(JSON.stringify(stats));
        return silent;
      default:
        answer(text(payload));
        return silent;
    }
  },

  requestStream(payload, initialCredit, stream) {
    const total = Number(text(payload));
    let number = 0;
    const request = (n) => {
      for (; n > 0 && number < total; n--) {
        number++;
        stats.yielded++;
        stream.onNext({ data: bytes(String(number)) }, number === total);
      }
    };
    // Answering before this function has returned would make the library lose the next credit.
    setImmediate(request, initialCredit);
    return { request, cancel: () => stats.cancelled++, onExtension() {} };
  },

  requestChannel(payload, initialCredit, isCompleted, stream) {
    const waiting = [payload];
    let credit = initialCredit;
    let ended = isCompleted;
    const pass = () => {
      while (credit > 0 && waiting.length > 0) {
        credit--;
        const data = bytes(text(waiting.shift()));
        stream.onNext({ data }, ended && waiting.length === 0);
        if (!ended) stream.request(1);
      }
      if (ended && waiting.length === 0) stream.onComplete();
    };
    setImmediate(pass);
    return {
      request(n) {
        credit = Math.min(UNBOUNDED, credit + n);
        pass();
      },
      onNext(item, isComplete) {
        waiting.push(item);
        ended ||= isComplete;
        pass();
      },
      onComplete() {
        ended = true;
        pass();
      },
      onError() {
        waiting.length = 0;
      },
      cancel: () => stats.cancelled++,
      onExtension() {},
    };
  },
};

async function service(url, name) {
  const announcement = { app: "rsocket-js", services: [{ name }] };
  const metadata = encodeCompositeMetadata([[ANNOUNCEMENT, bytes(JSON.stringify(announcement))]]);
  const peer = new Caller(await connect(url, COMPOSITE, { responder, metadata }), "composite");
  // There is no answer to SETUP: a call to ourselves comes back only when we are registered.
  const { error } = await peer.response({ tags: [`${name}.echo`], data: "ready" });
  if (error) throw new Error(error.text);
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) say({ id: JSON.parse(line).id });
}

const [role, ...rest] = process.argv.slice(2);
await { caller, service }[role](...rest);
process.exit(0);
