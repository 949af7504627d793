// What happened: invocations as traces along a time line, and logs.

import { answer, once, opened } from "./catalogue.js";
import { badge, clock, duration, facts, h, json, keyed, link, problem, replace } from "./dom.js";
import { number, parse, pretty, short } from "./json.js";
import { action, choice, matches, split, toggle } from "./listing.js";

const MS = 1e6;
const LIMIT = 200;

const startOf = (span) => number(span.start_time_unix_nano) / MS;
/** A span that has not ended goes on until now. */
const endOf = (span) => (number(span.end_time_unix_nano) ? number(span.end_time_unix_nano) / MS : Date.now());
const isRunning = (span) => !number(span.end_time_unix_nano);
const statusOf = (span) => (isRunning(span) ? "running" : span.status);

function bar(span, from, to) {
  const whole = Math.max(to - from, 0.001);
  const left = (100 * (startOf(span) - from)) / whole;
  const width = (100 * (endOf(span) - startOf(span))) / whole;
  const style = { marginLeft: `${Math.min(Math.max(left, 0), 99.2)}%`, width: `${Math.max(width, 0.8)}%` };
  return h("span", { class: "track", "aria-hidden": "true" }, h("span", { class: `bar ${statusOf(span)}`, style }));
}

// -- traces -----------------------------------------------------------------------------------------------------------

export const traces = {
  title: "Traces",
  topics: ["traces"],
  poll: 2000,
  mount(root, app) {
    const ui = split(root, { base: "traces", title: "Traces", placeholder: "Filter by name", onfilter: app.refresh });
    const status = choice("Status", [["", "any status"], ["error", "errors"], ["ok", "ok"]], app.refresh);
    const internal = toggle("the engine's own", app.refresh);
    const paused = toggle("hold", app.refresh);
    const clear = action("Clear", async () => {
      await app.call("engine::traces::clear");
      app.refresh();
    }, { confirm: "Forget all traces?" });
    ui.controls.append(status.element, internal.element, paused.element, clear);
    const summary = h("p", { class: "summary" });
    ui.list.before(summary);
    let path = [];

    async function refresh() {
      if (!paused.on) {
        const query = { sort_order: "desc", limit: LIMIT, include_internal: internal.on };
        if (ui.needle()) query.name = ui.needle();
        if (status.value) query.status = status.value;
        show(await app.call("engine::traces::list", query));
      }
      ui.choose(path);
      if (path.length) await showDetail(path);
    }

    function show({ spans, total, storage }) {
      ui.count(spans.length, total);
      const from = Math.min(...spans.map(startOf));
      const to = Math.max(...spans.map(endOf));
      const lost = number(storage.known_dropped_spans);
      const text = [spans.length && `${clock(from)} to ${clock(to)}`, lost && `${lost} spans had to go`].filter(Boolean).join(" · ");
      if (summary.textContent !== text) summary.textContent = text;
      const nothing = "No traces. Workers send them when their telemetry is on: OTEL_ENABLED=true.";
      // What a row shows depends on the whole window, so that is part of what tells whether it is the same.
      const rows = spans.map((each) => ({ span: each, from: Math.round(from), to: Math.round(to) }));
      keyed(ui.list, rows, ({ span: each }) => `${each.trace_id} ${each.span_id}`, traceRow, nothing);
    }

    async function showDetail([traceId]) {
      const [content, found] = await Promise.all([
        answer(app.call("engine::traces::tree", { trace_id: traceId })),
        answer(app.call("engine::logs::list", { trace_id: traceId, limit: 100 })),
      ]);
      if (path[0] !== traceId) return;
      once(ui.detail, [content, found.logs], () => traceDetail(ui, traceId, content, found.logs ?? []));
    }
    return { refresh, route: (given) => { path = given; opened(ui, path); } };
  },
};

function traceRow({ span, from, to }) {
  const side = [isRunning(span) ? badge("running", "busy") : duration(endOf(span) - startOf(span)), span.status === "error" && badge("error", "error")];
  const line = h("span", { class: "line" }, h("span", { class: "main" }, span.name), h("span", { class: "side" }, side));
  const sub = h("span", { class: "sub" }, `${clock(startOf(span))} · ${span.service_name}`);
  return link(["traces", span.trace_id], [line, sub, bar(span, from, to)], { class: "row" });
}

function traceDetail(ui, traceId, content, found) {
  if (content instanceof Error) return [ui.back(), h("h3", {}, "Trace"), problem(content)];
  const flat = [];
  const walk = (spans, depth) => spans.forEach((span) => { flat.push({ span, depth }); walk(span.children, depth + 1); });
  walk(content.roots, 0);
  const heading = [ui.back(), h("h3", {}, "Trace ", h("code", {}, traceId))];
  if (!flat.length) return [...heading, h("p", { class: "empty" }, "No spans: they have not come yet, or nobody sends them.")];
  const from = Math.min(...flat.map(({ span }) => startOf(span)));
  const to = Math.max(...flat.map(({ span }) => endOf(span)));
  return [
    ...heading,
    facts([["began", clock(from)], ["took", duration(to - from)], ["spans", String(flat.length)]]),
    h("div", { class: "waterfall" }, ...flat.map(({ span, depth }) => spanItem(span, depth, from, to))),
    found.length > 0 && [h("h4", {}, "Logs"), ...found.slice().reverse().map((log) => logItem(log))],
  ];
}

function spanItem(span, depth, from, to) {
  const took = isRunning(span) ? "running" : duration(endOf(span) - startOf(span));
  const summary = h(
    "summary",
    {},
    h("span", { class: "line", style: { paddingLeft: `${Math.min(depth, 12) * 0.7}rem` } }, h("span", { class: "main" }, span.name), h("span", { class: "side" }, span.status === "error" && badge("error", "error"), took)),
    bar(span, from, to),
  );
  return h(
    "details",
    { class: "span" },
    summary,
    facts([
      ["service", span.service_name],
      ["status", [statusOf(span), span.status_description && ` ${span.status_description}`].filter(Boolean)],
      ["starts after", duration(startOf(span) - from)],
      ["span", span.span_id],
      ...span.attributes.map(([name, value]) => [name, String(value)]),
    ]),
    ...span.events.map((event) => eventItem(event, from)),
  );
}

function eventItem(event, from) {
  const values = Object.fromEntries(event.attributes);
  const payload = values["iii.payload.json"];
  const name = `${event.name} (after ${duration(number(event.timestamp_unix_nano) / MS - from)})`;
  const cut = values["iii.payload.truncated"] === "true" && h("p", { class: "warning" }, "cut off by the worker");
  return [h("h5", {}, name), json(payload === undefined ? pretty(values) : readable(payload), event.name), cut];
}

function readable(text) {
  try {
    return pretty(parse(text));
  } catch {
    return text;
  }
}

// -- logs -------------------------------------------------------------------------------------------------------------

const LEVELS = [["0", "every level"], ["5", "debug and up"], ["9", "info and up"], ["13", "warnings and up"], ["17", "errors"]];
const MAX_LOGS = 300;

export const logs = {
  title: "Logs",
  topics: ["logs"],
  poll: 5000,
  mount(root, app) {
    const level = choice("Level", LEVELS, app.refresh);
    const search = h("input", { type: "search", placeholder: "Filter logs", "aria-label": "Filter logs", oninput: app.refresh });
    const clear = action("Clear", async () => {
      await app.call("engine::logs::clear");
      app.refresh();
    }, { confirm: "Forget all logs?" });
    const count = h("span", { class: "count" });
    const list = h("div", { class: "logs" });
    replace(root, h("section", { "aria-label": "Logs" }, h("h2", {}, "Logs ", count), h("div", { class: "controls" }, search, level.element, clear), list));

    async function refresh() {
      const needle = search.value.trim().toLowerCase();
      const query = { severity_min: Number(level.value) };
      if (!needle) query.limit = MAX_LOGS;
      const { logs: all, total } = await app.call("engine::logs::list", query);
      const found = all.filter((log) => matches(needle, log.body, log.service_name, short(log.attributes, 2000)));
      const shown = found.slice(0, MAX_LOGS);
      const text = shown.length === total ? `${total}` : `${shown.length} of ${total}`;
      if (count.textContent !== text) count.textContent = text;
      const keys = new Map();
      const rows = shown.map((log) => {
        const key = `${number(log.timestamp_unix_nano)} ${log.service_name} ${log.body}`;
        keys.set(key, (keys.get(key) ?? 0) + 1);
        return { log, key: `${key} ${keys.get(key)}` };
      });
      keyed(list, rows, (each) => each.key, (each) => logItem(each.log), "No logs.");
    }
    return { refresh, route: () => {} };
  },
};

function logItem(log) {
  const severity = number(log.severity_number);
  const level = severity >= 17 ? "error" : severity >= 13 ? "warn" : severity >= 9 ? "info" : "debug";
  return h(
    "details",
    { class: "log" },
    h(
      "summary",
      {},
      h("time", {}, clock(number(log.timestamp_unix_nano) / MS)),
      badge(log.severity_text || level, level),
      h("span", { class: "service" }, log.service_name),
      h("span", { class: "message" }, typeof log.body === "string" ? log.body : short(log.body, 500)),
    ),
    log.trace_id && h("p", {}, link(["traces", log.trace_id], "its trace")),
    json(pretty(log.attributes), "Attributes"),
  );
}
