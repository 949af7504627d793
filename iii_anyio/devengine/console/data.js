// What is kept: state, streams, queues.

import { answer, once, opened } from "./catalogue.js";
import { badge, clock, facts, h, json, keyed, link, problem, replace } from "./dom.js";
import { InputError, jsonField } from "./form.js";
import { number, parse, pretty, short } from "./json.js";
import { action, form, matches, row, split } from "./listing.js";

const partly = (shown, total) => total > shown && h("p", { class: "warning" }, `The first ${shown} of ${total}.`);

// -- state ------------------------------------------------------------------------------------------------------------

export const state = {
  title: "State",
  topics: ["state"],
  poll: 5000,
  mount(root, app) {
    const ui = split(root, { base: "state", title: "State", placeholder: "Filter scopes", onfilter: app.refresh });
    let path = [];
    let scopes = [];
    ui.controls.append(link(["state", "new"], "New value", { class: "button" }));

    async function refresh() {
      ({ groups: scopes } = await app.call("state::list_groups"));
      const shown = scopes.filter((scope) => matches(ui.needle(), scope));
      ui.count(shown.length, scopes.length);
      keyed(ui.list, shown, (scope) => scope, (scope) => row(["state", "in", scope], scope), "No state yet.");
      ui.choose(path.slice(0, 2));
      if (path[0] === "new") once(ui.detail, "new", () => [ui.back(), h("h3", {}, "New value"), newValue(app)]);
      else if (path.length >= 2) await showScope(path);
    }

    async function showScope([, scope, key]) {
      const content = await answer(app.call("iii-console::state_entries", { scope }));
      if (path[1] !== scope || path[2] !== key) return;
      if (content instanceof Error) {
        once(ui.detail, content, () => [ui.back(), h("h3", {}, scope), problem(content)]);
        return;
      }
      if (key === undefined) {
        once(ui.detail, content, () => scopeDetail(ui, scope, content));
      } else {
        const entry = content.entries.find((each) => each.key === key);
        await showKey(scope, key, entry ?? (content.total > content.entries.length ? await single(scope, key) : undefined));
      }
    }

    async function single(scope, key) {
      const value = await app.call("state::get", { scope, key });
      return value === null ? undefined : { key, value };
    }

    async function showKey(scope, key, entry) {
      if (path[1] !== scope || path[2] !== key) return;
      if (ui.detail.editor === undefined || !ui.detail.editor.element.isConnected) {
        ui.detail.editor = editor(app, scope, key);
        replace(ui.detail, link(["state", "in", scope], `← ${scope}`, { class: "back" }), h("h3", {}, key), ui.detail.editor.element);
      }
      ui.detail.editor.stored(entry);
    }
    return {
      refresh,
      route: (given) => {
        path = given;
        ui.detail.editor = undefined;
        opened(ui, path);
        ui.choose(path.slice(0, 2));
        if (path.length) ui.detail.closest(".split").classList.add("chosen");
      },
    };
  },
};

function scopeDetail(ui, scope, { entries, total }) {
  return [
    ui.back(),
    h("h3", {}, scope),
    partly(entries.length, total),
    entries.length
      ? h("ul", { class: "entries" }, ...entries.map(({ key, value }) => h("li", {}, link(["state", "in", scope, key], key), " ", h("code", {}, short(value)))))
      : h("p", { class: "empty" }, "No keys."),
  ];
}

/** The value of a key. What somebody types is not replaced by what happens meanwhile, but they are told. */
function editor(app, scope, key) {
  const field = jsonField("Value as JSON", "", { rows: 12 });
  const note = h("p", { class: "note", role: "status", "aria-live": "polite" });
  let base; // the stored value that the text began with
  let stored;

  const save = async () => {
    try {
      const value = field.read();
      await app.call("state::set", { scope, key, value });
      base = stored = pretty(value);
      field.control.value = base;
      note.textContent = "saved";
    } catch (error) {
      if (error instanceof InputError) error.control.focus();
      else note.textContent = `not saved: ${error.code}: ${error.message}`;
    }
  };
  const remove = action("Delete", async () => {
    await app.call("state::delete", { scope, key });
    app.go(["state", "in", scope]);
  }, { kind: "danger", confirm: `Delete ${key} of ${scope}?` });
  const element = form("Save", save, field.element, note);
  element.querySelector(".buttons").append(remove);
  return {
    element,
    stored: (entry) => {
      const now = entry === undefined ? undefined : pretty(entry.value);
      if (now === stored && stored !== undefined) return;
      const isTouched = base !== undefined && field.control.value !== base;
      stored = now;
      if (now === undefined) {
        note.textContent = "This key is gone. Saving makes it again.";
      } else if (isTouched && now !== base) {
        note.textContent = `Changed meanwhile to ${short(entry.value)}. Saving overwrites that.`;
      } else {
        base = now;
        field.control.value = now;
        note.textContent = "";
      }
    },
  };
}

function newValue(app) {
  const text = (label) => {
    const control = h("input", { required: true, autocomplete: "off" });
    return { control, element: h("label", { class: "field" }, label, control) };
  };
  const [scope, key] = [text("Scope"), text("Key")];
  const value = jsonField("Value as JSON", "{}");
  const note = h("p", { class: "note", role: "status" });
  return form("Save", async () => {
    try {
      const place = { scope: scope.control.value, key: key.control.value };
      await app.call("state::set", { ...place, value: value.read() });
      app.go(["state", "in", place.scope, place.key]);
    } catch (error) {
      if (error instanceof InputError) error.control.focus();
      else note.textContent = `not saved: ${error.code}: ${error.message}`;
    }
  }, scope.element, key.element, value.element, note);
}

// -- streams ----------------------------------------------------------------------------------------------------------

const MAX_EVENTS = 200;

export const streams = {
  title: "Streams",
  topics: [],
  poll: 2000,
  mount(root, app) {
    const ui = split(root, { base: "streams", title: "Streams", placeholder: "Filter streams", onfilter: app.refresh });
    let path = [];
    let watch = null;

    async function refresh() {
      const { stream } = await app.call("stream::list_all");
      const all = stream.flatMap(({ id, groups }) => groups.map((group) => ({ id, group })));
      const shown = all.filter(({ id, group }) => matches(ui.needle(), id, group));
      ui.count(shown.length, all.length);
      keyed(ui.list, shown, (each) => JSON.stringify(each), ({ id, group }) => row(["streams", id, group], [id, " ", badge(group)]), "No streams yet.");
      ui.choose(path);
      if (path.length === 2) await showGroup(path);
    }

    async function showGroup([stream_name, group_id]) {
      const content = await answer(app.call("iii-console::stream_entries", { stream_name, group_id }));
      if (path[0] !== stream_name || path[1] !== group_id || watch === null) return;
      if (content instanceof Error) replace(watch.items, problem(content));
      else {
        watch.partly.textContent = content.total > content.entries.length ? `The first ${content.entries.length} of ${content.total}.` : "";
        keyed(watch.items, content.entries, (each) => each.key, itemElement, "No items.");
      }
    }

    return {
      refresh,
      route: (given) => {
        if (JSON.stringify(given) === JSON.stringify(path)) return;
        path = given;
        watch?.close();
        watch = null;
        opened(ui, path);
        if (path.length === 2) watch = watching(ui, app, ...path);
      },
      destroy: () => watch?.close(),
    };
  },
};

const itemElement = ({ key, value }) => h("details", { class: "item" }, h("summary", {}, h("strong", {}, key), " ", h("code", {}, short(value))), json(pretty(value), key));

/** A group as it changes: a subscriber of the stream server, connected again when it is lost. */
function watching(ui, app, streamName, groupId) {
  const items = h("div", { class: "items" });
  const events = h("ol", { class: "events", "aria-label": "Events, the newest first" });
  const status = h("span", { role: "status" });
  const more = h("p", { class: "warning" });
  replace(
    ui.detail,
    ui.back(),
    h("h3", {}, streamName, " ", badge(groupId)),
    h("h4", {}, "Items"),
    more,
    items,
    h("h4", {}, "Live ", status),
    events,
  );
  let socket = null;
  let retry = null;
  let isOver = false;

  function connect() {
    socket = new WebSocket(app.engine.stream_url);
    socket.onopen = () => {
      const subscriptionId = crypto.randomUUID();
      socket.send(JSON.stringify({ type: "join", data: { subscriptionId, streamName, groupId } }));
    };
    socket.onmessage = ({ data }) => {
      const { event, id, timestamp } = parse(data);
      if (event.type === "sync") status.replaceChildren(badge("connected", "connected"));
      else if (event.type === "unauthorized") status.replaceChildren(badge("not allowed by a join trigger", "error"));
      else note(event, id, number(timestamp));
      app.refresh();
    };
    socket.onclose = () => {
      if (isOver) return;
      status.replaceChildren(badge("connection lost", "error"));
      retry = setTimeout(connect, 2000);
    };
  }

  function note(event, id, timestamp) {
    const custom = event.type === "event";
    const name = custom ? event.event?.type : event.type;
    const value = custom ? event.event?.data : event.data;
    const line = [h("time", {}, clock(timestamp)), " ", badge(name ?? "event", custom ? "type" : event.type), " ", id && h("strong", {}, id), " ", h("code", {}, short(value))];
    events.prepend(h("li", {}, ...line));
    while (events.children.length > MAX_EVENTS) events.lastChild.remove();
  }

  if (app.engine.stream_url) connect();
  else status.append(badge("this engine serves no stream port", "error"));
  return {
    items,
    partly: more,
    close: () => {
      isOver = true;
      clearTimeout(retry);
      socket?.close();
    },
  };
}

// -- queues -----------------------------------------------------------------------------------------------------------

const PAGE = 50;

export const queues = {
  title: "Queues",
  topics: [],
  poll: 1500,
  mount(root, app) {
    const ui = split(root, { base: "queues", title: "Queues", placeholder: "Filter queues", onfilter: app.refresh });
    let path = [];
    let limit = PAGE;

    async function refresh() {
      const listed = await app.call("engine::queue::dlq_topics");
      const all = await Promise.all(
        listed.map(async ({ topic, broker_type }) => ({ topic, kind: broker_type, ...(await app.call("engine::queue::topic_stats", { topic })) })),
      );
      const shown = all.filter(({ topic }) => matches(ui.needle(), topic));
      ui.count(shown.length, all.length);
      keyed(ui.list, shown, ({ topic, kind }) => `${kind} ${topic}`, queueRow, "No queues.");
      ui.choose(path);
      if (path.length) await showQueue(path[0], all.find(({ topic }) => topic === path[0]));
    }

    async function showQueue(topic, stats) {
      const dead = await answer(app.call("engine::queue::dlq_messages", { topic, limit }));
      if (path[0] === topic) once(ui.detail, dead instanceof Error ? dead : [stats, dead], () => queueDetail(topic, stats, dead));
    }

    function queueDetail(topic, stats, dead) {
      if (dead instanceof Error) return [ui.back(), h("h3", {}, topic), problem(dead)];
      const done = async (functionId, data) => {
        await app.call(functionId, { queue: topic, ...data });
        app.refresh();
      };
      const total = stats?.dlq_depth ?? dead.length;
      return [
        ui.back(),
        h("h3", {}, topic),
        stats && facts([["kind", kindOf(stats)], ["waiting", String(stats.depth)], ["consumers", String(stats.consumer_count)], ["dead letters", String(total)]]),
        h("h4", {}, "Dead letters"),
        dead.length === 0 && h("p", { class: "empty" }, "None: no message has used up its attempts."),
        dead.length > 0 && action("Redrive all", () => done("iii::queue::redrive", {})),
        ...dead.map((message) => deadLetter(message, done)),
        total > dead.length && h("button", { type: "button", onclick: () => { limit += PAGE; app.refresh(); } }, `Show more (${total - dead.length} are left)`),
      ];
    }
    return {
      refresh,
      route: (given) => {
        if (given[0] !== path[0]) limit = PAGE;
        path = given;
        opened(ui, path);
      },
    };
  },
};

const kindOf = (stats) => (stats.kind === "function_queue" ? "named queue" : "topic");

function queueRow(queue) {
  const dead = queue.dlq_depth > 0 && badge(`${queue.dlq_depth} dead`, "error");
  return row(["queues", queue.topic], queue.topic, [badge(`${queue.depth} waiting`, queue.depth > 0 ? "busy" : ""), dead], `${kindOf(queue)} · ${queue.consumer_count} consumers`);
}

function deadLetter(message, done) {
  const id = { message_id: message.id };
  return h(
    "article",
    { class: "dead", "aria-label": `Dead letter ${message.id}` },
    h("p", { class: "error-text" }, message.error),
    facts([["failed", message.failed_at ? clock(number(message.failed_at) * 1000) : null], ["attempts", String(message.retries)], ["id", message.id]]),
    json(pretty(message.payload), "Payload"),
    h(
      "div",
      { class: "buttons" },
      action("Redrive", () => done("iii::queue::redrive_message", id)),
      action("Discard", () => done("iii::queue::discard_message", id), { kind: "danger", confirm: "Delete this message for good?" }),
    ),
  );
}
