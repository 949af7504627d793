// A worker in a browser: the wire protocol over one WebSocket, connected again when it is lost. No DOM.
//
// Each link begins with: reattach (once an id is known), the functions, the triggers, engine::workers::register with an
// invocation id. Its answer confirms everything before it; then calls flow, and the state is "connected".

import { parse, stringify } from "./json.js";

const CALL_TIMEOUT = 30_000;
const PING_EVERY = 20_000;
const SILENT_FOR = 60_000;
const FIRST_DELAY = 500;
const MAX_DELAY = 10_000;
const REGISTER = "engine::workers::register";

export class CallError extends Error {
  constructor(code, message, stacktrace) {
    super(message);
    this.name = "CallError";
    this.code = code;
    this.stacktrace = stacktrace;
  }
}

/** A W3C traceparent that begins a trace. */
export function newTraceparent() {
  const hex = (length) =>
    Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `00-${hex(16)}-${hex(8)}-01`;
}

/**
 * Events: "state" when `state` changes: connecting, connected, reconnecting, failed (see `problem`), closed.
 *
 * `identity` is what the worker says of itself. Without `pid` it is in no list of workers.
 */
export class BrowserWorker extends EventTarget {
  #socket = null;
  #calls = new Map();
  #functions = new Map();
  #triggers = new Map();
  #credentials = null;
  #registering = null;
  #attempt = 0;
  #retry = null;
  #pings = null;
  #heard = 0;

  constructor(url, identity, { WebSocket = globalThis.WebSocket, firstDelay = FIRST_DELAY } = {}) {
    super();
    this.url = url;
    this.identity = identity;
    this.state = "closed";
    this.problem = "";
    this.WebSocket = WebSocket;
    this.firstDelay = firstDelay;
  }

  get workerId() {
    return this.#credentials?.worker_id;
  }

  /** Connect, and keep connected until `close`. */
  open() {
    clearTimeout(this.#retry);
    this.#attempt = 0;
    this.#connect();
  }

  close() {
    clearTimeout(this.#retry);
    const socket = this.#socket;
    this.#lost(socket, "closed");
    socket?.close(1000);
  }

  /** Register a function: `handler(data)` may return a promise. */
  register(id, handler, { description, metadata } = {}) {
    const message = { type: "registerfunction", id, description, metadata };
    this.#functions.set(id, { handler, message });
    if (this.#socket?.readyState === 1) this.#send(message);
  }

  /** Bind a function to a trigger type; returns the trigger's id. Nobody hears of success (protocol §9.1). */
  bind(trigger_type, function_id, config = {}) {
    const id = crypto.randomUUID();
    const message = { type: "registertrigger", id, trigger_type, function_id, config };
    this.#triggers.set(id, message);
    if (this.#socket?.readyState === 1) this.#send(message);
    return id;
  }

  /** Call a function. Rejects with CallError; a lost link rejects at once. */
  call(function_id, data = {}, { namespace, timeout = CALL_TIMEOUT, traceparent, action } = {}) {
    if (this.state !== "connected") {
      return Promise.reject(new CallError("NOT_CONNECTED", `not connected to the engine: ${function_id} was not called`));
    }
    return this.#call({ function_id, data, namespace, traceparent, action }, timeout);
  }

  #call(request, timeout) {
    const invocation_id = crypto.randomUUID();
    const isVoid = request.action?.type === "void";
    const message = { type: "invokefunction", ...request };
    if (isVoid) {
      this.#send(message);
      return Promise.resolve(null);
    }
    return new Promise((resolve, reject) => {
      const expired = () => {
        this.#calls.delete(invocation_id);
        reject(new CallError("TIMEOUT", `no answer in ${timeout / 1000} s; the function may still be running`));
      };
      const timer = setTimeout(expired, timeout);
      this.#calls.set(invocation_id, { resolve, reject, timer });
      this.#send({ ...message, invocation_id });
    });
  }

  #connect() {
    this.#setState(this.#credentials === null && this.#attempt === 0 ? "connecting" : "reconnecting");
    let socket;
    try {
      socket = new this.WebSocket(this.url);
    } catch (error) {
      this.#fail(`${this.url} is no address to connect to: ${error.message}`);
      return;
    }
    this.#socket = socket;
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = (event) => this.#socket === socket && this.#received(event.data);
    socket.onclose = () => this.#lost(socket, "reconnecting");
  }

  #opened(socket) {
    if (this.#socket !== socket) return;
    this.#heard = Date.now();
    this.#pings = setInterval(() => this.#beat(socket), PING_EVERY);
    if (this.#credentials !== null) {
      const { worker_id, reattach_token } = this.#credentials;
      this.#send({ type: "reattach", previous_worker_id: worker_id, reattach_token });
    }
    for (const { message } of this.#functions.values()) this.#send(message);
    for (const message of this.#triggers.values()) this.#send(message);
    this.#registering = this.#call({ function_id: REGISTER, data: this.identity }, CALL_TIMEOUT).then(
      () => {
        this.#attempt = 0;
        if (this.#socket === socket) this.#setState("connected");
      },
      (error) => {
        if (this.#socket !== socket) return;
        if (error.code === "TIMEOUT") socket.close();
        else this.#fail(`the engine refused this worker: ${error.code}: ${error.message}`);
      },
    );
  }

  /** A browser sends no pings of its own, so JSON ones show whether the engine is there (protocol §3.2). */
  #beat(socket) {
    if (Date.now() - this.#heard > SILENT_FOR) {
      this.#lost(socket, "reconnecting");
      socket.close();
    } else {
      this.#send({ type: "ping" });
    }
  }

  #lost(socket, next) {
    if (this.#socket !== socket || this.state === "failed") return;
    this.#socket = null;
    clearInterval(this.#pings);
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const { reject, timer } of calls) {
      clearTimeout(timer);
      reject(new CallError("CONNECTION_LOST", "the connection was lost before the answer; the function may have run"));
    }
    this.#setState(next);
    if (next !== "reconnecting") return;
    const delay = Math.min(this.firstDelay * 2 ** this.#attempt++, MAX_DELAY) * (0.7 + 0.6 * Math.random());
    this.#retry = setTimeout(() => this.#connect(), delay);
  }

  #fail(problem) {
    const socket = this.#socket;
    this.problem = problem;
    this.#lost(socket, "failed");
    socket?.close();
  }

  #setState(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  #send(message) {
    this.#socket?.send(stringify(message));
  }

  #received(text) {
    this.#heard = Date.now();
    let message;
    try {
      message = parse(text);
    } catch {
      console.warn("a message of the engine is no JSON");
      return;
    }
    switch (message.type) {
      case "workerregistered":
        this.#credentials = message;
        break;
      case "invocationresult":
        this.#settle(message);
        break;
      case "invokefunction":
        this.#invoked(message);
        break;
      case "registrationrejected":
        // Only the one of a function leaves the rest as it is (protocol §5.6).
        if (message.code === "FUNCTION_NAMESPACE_CONFLICT") console.warn(`${message.function_id} belongs to another`);
        else this.#fail(`the engine refused this worker: ${message.code}`);
        break;
      case "error":
        this.#fail(`the engine refused this connection: ${message.error?.message ?? "no reason given"}`);
        break;
      case "triggerregistrationresult":
        if (message.error) console.warn(`trigger ${message.trigger_type}: ${message.error.message}`);
        break;
    }
  }

  #settle({ invocation_id, result, error }) {
    const call = this.#calls.get(invocation_id);
    if (call === undefined) return;
    this.#calls.delete(invocation_id);
    clearTimeout(call.timer);
    if (error) call.reject(new CallError(error.code, error.message, error.stacktrace));
    else call.resolve(result ?? null);
  }

  async #invoked({ invocation_id, function_id, data, traceparent }) {
    const socket = this.#socket;
    const answer = { type: "invocationresult", invocation_id, function_id, traceparent };
    const entry = this.#functions.get(function_id);
    if (entry === undefined) {
      answer.error = { code: "function_not_found", message: `this page has no function ${function_id}` };
    } else {
      try {
        answer.result = (await entry.handler(data)) ?? null;
      } catch (error) {
        answer.error = { code: "invocation_failed", message: String(error?.message ?? error) };
      }
    }
    if (invocation_id && this.#socket === socket) this.#send(answer);
  }
}
