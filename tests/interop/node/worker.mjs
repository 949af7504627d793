// A worker on the official Node SDK, as a program of its own: node worker.mjs URL TAG.
// tests/conformance/judging.py says what it registers and which commands it understands.

import { createInterface } from "node:readline";

import { http } from "@iii-dev/helpers/http";
import { registerWorker } from "iii-sdk";
import { createChannel, createStream } from "iii-sdk/helpers";

const [url, tag] = process.argv.slice(2);
console.log = console.info = console.debug = () => {}; // stdout is for answers

class Inbox {
  #items = [];
  #wake = () => {};

  put(item) {
    this.#items.push(item);
    this.#wake();
  }

  // Waits until there are so many; all there are.
  async take(count) {
    while (this.#items.length < count) await new Promise((resolve) => (this.#wake = resolve));
    return this.#items.splice(0);
  }
}

// A stream kept in a map.
class Memory {
  #groups = new Map();

  #group(name) {
    if (!this.#groups.has(name)) this.#groups.set(name, new Map());
    return this.#groups.get(name);
  }

  async get({ group_id, item_id }) {
    return this.#group(group_id).get(item_id) ?? null;
  }

  async set({ group_id, item_id, data }) {
    const old_value = this.#group(group_id).get(item_id) ?? null;
    this.#group(group_id).set(item_id, data);
    return { old_value, new_value: data };
  }

  async delete({ group_id, item_id }) {
    const old_value = this.#group(group_id).get(item_id) ?? null;
    this.#group(group_id).delete(item_id);
    return { old_value };
  }

  async list({ group_id }) {
    return [...this.#group(group_id).values()];
  }

  async listGroups() {
    return [...this.#groups].filter(([, items]) => items.size > 0).map(([name]) => name);
  }

  async update() {
    return null;
  }
}

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

const iii = registerWorker(url, {
  workerName: `${tag}::official`,
  otel: { enabled: false },
  enableMetricsReporting: false,
  reconnectionConfig: { initialDelayMs: 20, maxDelayMs: 20 },
});
const heard = new Inbox();
const told = new Inbox();

const write = async ({ writer, count }) => {
  writer.sendMessage("note");
  await new Promise((resolve, reject) => {
    writer.stream.once("error", reject);
    writer.stream.end(Buffer.from("hello".repeat(count)), resolve);
  });
};

const functions = {
  add: async ({ a, b }) => a + b,
  double: async (data) => data * 2,
  none: async () => null,
  fail: async () => {
    throw new Error("out of stock");
  },
  meta: async (data, metadata) => [data ?? null, metadata ?? null],
  http: async ({ method, path_params, query_params, body }) => ({
    status_code: 201,
    body: [method, path_params, query_params, body],
    headers: { "x-served-by": "official" },
  }),
  stream: http(async (request, response) => {
    const body = await request.request_body.readAll();
    response.status(202);
    response.headers({ "x-served-by": "official", "content-type": "text/plain" });
    response.stream.write("<");
    response.stream.write(body);
    response.stream.end(">");
  }),
  length: async (data) => data.length,
  note: async (data) => heard.put(data),
  read: async ({ reader }) => {
    const notes = [];
    reader.onMessage((text) => notes.push(text));
    const content = await reader.readAll();
    return { size: content.length, start: content.subarray(0, 5).toString(), notes };
  },
  write,
  pipe: async ({ to, count }) => {
    const channel = await createChannel(iii);
    const answer = iii.trigger({ function_id: to, payload: { reader: channel.readerRef } });
    await write({ writer: channel.writer, count });
    return await answer;
  },
  auth: async ({ headers }) => {
    if (headers["x-token"] !== "right") throw new Error("wrong token");
    return { allowed_functions: [`${tag}::ours::add`], forbidden_functions: [], context: { user: "ann" } };
  },
  hook: async ({ function_id, context }) => {
    if (function_id.includes("denied")) throw new Error("not this one");
    return { metadata: { checked: context.user } };
  },
  middleware: async ({ function_id, payload, context }) => ({ seen: function_id, payload, user: context.user }),
};
for (const [name, handler] of Object.entries(functions)) iii.registerFunction(`${tag}::official::${name}`, handler);

iii.registerTriggerType(
  { id: `${tag}::official`, description: "Of the official SDK" },
  {
    async registerTrigger({ id, function_id, config, metadata }) {
      told.put(["bind", id, function_id, config, metadata ?? null]);
      if (config === "refuse") throw new Error("the official one refuses");
    },
    async unregisterTrigger({ id }) {
      told.put(["unbind", id]);
    },
  },
);
const bound = [];

async function obey(command) {
  if ("bind" in command) return { bound: bound.push(iii.registerTrigger(command.bind)) - 1 };
  if ("unbind" in command) {
    bound[command.unbind].unregister();
    return { unbound: command.unbind };
  }
  if ("told" in command) return { told: await told.take(command.told) };
  if ("heard" in command) return { heard: await heard.take(command.heard) };
  if ("stream" in command) {
    createStream(iii, command.stream, new Memory());
    return { stream: command.stream };
  }
  if ("observe" in command) return { unsupported: true }; // not in this release
  if ("external" in command) {
    iii.registerFunction(`${tag}::official::external`, { url: command.external });
    return { external: command.external };
  }
  const { timeout_ms: timeoutMs, ...request } = command.trigger;
  if ("kib" in command) request.payload = "é".repeat(command.kib * 512);
  try {
    return { result: (await iii.trigger({ ...request, timeoutMs })) ?? null };
  } catch (error) {
    return { error: [error.code ?? "", error.message] };
  }
}

// Its register call brings no answer; this one says that the engine has handled all of the above.
await iii.trigger({ function_id: "engine::triggers::list", payload: {} });
say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) say(await obey(JSON.parse(line)));
await iii.shutdown();
say({ over: true });
process.exitCode = 0;
