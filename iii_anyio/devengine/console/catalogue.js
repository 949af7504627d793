// What there is: workers, functions with a form to call them, triggers.

import { badge, clock, duration, facts, focusable, h, json, keyed, link, problem, replace } from "./dom.js";
import { formOf, hasFields, jsonField } from "./form.js";
import { number, pretty, short } from "./json.js";
import { choice, form, matches, row, split, toggle } from "./listing.js";
import { CallError, newTraceparent } from "./wire.js";

const functionLink = (functionId, namespace = "default") => link(["functions", functionId, namespace], functionId);

const plural = (count, word) => `${count} ${word}${Number(count) === 1 ? "" : "s"}`;

// -- workers ----------------------------------------------------------------------------------------------------------

export const workers = {
  title: "Workers",
  topics: ["workers", "functions"],
  poll: 2000,
  mount(root, app) {
    const ui = split(root, { base: "workers", title: "Workers", placeholder: "Filter workers", onfilter: app.refresh });
    let path = [];

    async function refresh() {
      const { workers: all } = await app.call("engine::workers::list");
      const ordered = [...all].sort((a, b) => (a.isolation === "in-process") - (b.isolation === "in-process"));
      const shown = ordered.filter((worker) => matches(ui.needle(), worker.name, worker.runtime, worker.description));
      ui.count(shown.length, all.length);
      keyed(ui.list, shown, (worker) => worker.id, workerRow, "No worker matches.");
      ui.choose(path);
      if (path.length) await showDetail(path);
    }

    async function showDetail([name, namespace]) {
      const content = await answer(app.call("engine::workers::info", { name, namespace }));
      if (path[0] === name && path[1] === namespace) once(ui.detail, content, () => workerDetail(ui, name, content));
    }
    return { refresh, route: (given) => { path = given; opened(ui, path); } };
  },
};

function workerRow(worker) {
  const busy = worker.active_invocations > 0 && badge(`${worker.active_invocations} running`, "busy");
  const side = [busy, badge(worker.runtime ?? "unknown"), badge(worker.status, worker.status)];
  const sub = [plural(worker.function_count, "function"), worker.namespace !== "default" && worker.namespace, worker.description];
  return row(["workers", worker.name ?? worker.id, worker.namespace], worker.name ?? worker.id, side, sub.filter(Boolean).join(" · "));
}

function workerDetail(ui, name, content) {
  if (content instanceof Error) return [ui.back(), h("h3", {}, name), problem(content)];
  const { worker, functions: own, trigger_types: types, registered_triggers: bound } = content;
  const metrics = worker.latest_metrics ?? {};
  return [
    ui.back(),
    h("h3", {}, worker.name ?? worker.id),
    worker.description && h("p", {}, worker.description),
    facts([
      ["id", worker.id],
      ["namespace", worker.namespace],
      ["status", worker.status],
      ["runtime", worker.runtime],
      ["version", worker.version],
      ["system", worker.os],
      ["process", worker.pid],
      ["address", worker.ip_address],
      ["isolation", worker.isolation],
      ["connected", clock(number(worker.connected_at_ms))],
      ["running calls", worker.active_invocations],
      ["memory", metrics.memory_rss && `${(number(metrics.memory_rss) / 1048576).toFixed(1)} MiB`],
      ["processor", metrics.cpu_percent !== undefined && `${metrics.cpu_percent.toFixed(1)} %`],
    ].filter(([, value]) => value !== false)),
    h("h4", {}, plural(own.length, "function")),
    h("ul", { class: "plain" }, ...own.map((each) => h("li", {}, functionLink(each.function_id, each.namespace), " ", h("small", {}, each.description ?? "")))),
    types.length > 0 && [h("h4", {}, "Trigger types"), h("ul", { class: "plain" }, ...types.map((type) => h("li", {}, link(["triggers", "type", type.id, type.namespace], type.id), " ", h("small", {}, type.description))))],
    bound.length > 0 && [h("h4", {}, "Triggers"), h("ul", { class: "plain" }, ...bound.map(triggerItem))],
  ];
}

const triggerItem = (trigger) => h("li", {}, link(["triggers", "trigger", trigger.id], trigger.trigger_type), " ", h("code", {}, short(trigger.config)));

// -- functions --------------------------------------------------------------------------------------------------------

export const functions = {
  title: "Functions",
  topics: ["functions", "workers"],
  poll: 5000,
  mount(root, app) {
    const ui = split(root, { base: "functions", title: "Functions", placeholder: "Filter functions", onfilter: app.refresh });
    const internal = toggle("internal ones too", app.refresh);
    ui.controls.append(internal.element);
    let path = [];

    async function refresh() {
      const [{ functions: listed }, { workers: known }] = await Promise.all([
        app.call("engine::functions::list", { include_internal: internal.on }),
        app.call("engine::workers::list"),
      ]);
      // The engine's own come last.
      const own = new Set(known.filter((worker) => worker.isolation === "in-process").map((worker) => worker.name));
      const all = [...listed].sort((a, b) => own.has(a.worker_name) - own.has(b.worker_name));
      const shown = all.filter((each) => matches(ui.needle(), each.function_id, each.description, each.worker_name));
      ui.count(shown.length, all.length);
      keyed(ui.list, shown, (each) => `${each.namespace} ${each.function_id}`, functionRow, "No function matches.");
      ui.choose(path);
      if (path.length) await showDetail(path);
    }

    async function showDetail([function_id, namespace]) {
      const content = await answer(app.call("engine::functions::info", { function_id, namespace }));
      if (path[0] === function_id && path[1] === namespace) {
        once(ui.detail, content, () => functionDetail(ui, app, function_id, content));
      }
    }
    return { refresh, route: (given) => { path = given; opened(ui, path); } };
  },
};

function functionRow(each) {
  const sub = [each.worker_name, each.namespace !== "default" && each.namespace, each.description];
  return row(["functions", each.function_id, each.namespace], each.function_id, [], sub.filter(Boolean).join(" · "));
}

function functionDetail(ui, app, functionId, info) {
  const heading = [ui.back(), h("h3", {}, functionId)];
  if (info instanceof Error) return [...heading, problem(info)];
  // A form that somebody fills in stays while the function does: only another schema makes another form.
  const key = JSON.stringify([functionId, info.namespace, info.request_schema]);
  if (ui.detail.caller?.key !== key) ui.detail.caller = { key, element: caller(app, info) };
  return [
    ...heading,
    info.description && h("p", {}, info.description),
    facts([
      ["worker", link(["workers", info.worker_name, info.namespace], info.worker_name)],
      ["namespace", info.namespace],
    ]),
    ui.detail.caller.element,
    info.registered_triggers.length > 0 && [h("h4", {}, "Triggers"), h("ul", { class: "plain" }, ...info.registered_triggers.map(triggerItem))],
    schema("Takes", info.request_schema),
    schema("Returns", info.response_schema),
    info.metadata !== undefined && [h("h4", {}, "Metadata"), json(pretty(info.metadata), "Metadata")],
  ];
}

const schema = (title, value) => value !== undefined && value !== null && h("details", {}, h("summary", {}, `${title}: JSON Schema`), json(pretty(value), `${title}: JSON Schema`));

/** What to call a function with, and what came of it. */
function caller(app, info) {
  const patience = h("input", { inputmode: "decimal", class: "short", "aria-label": "Seconds to wait for the result", value: "30" });
  const output = h("div", { class: "output", role: "status", "aria-live": "polite" });
  const raw = jsonField("Payload as JSON", "{}", { rows: 6 });
  const fields = hasFields(info.request_schema) ? formOf(info.request_schema) : null;
  let isRaw = fields === null;
  const body = h("div", {});
  const modes = ["Form", "JSON"].map((label, index) => {
    const button = h("button", { type: "button", onclick: () => change(index === 1) }, label);
    return button;
  });

  function change(wanted) {
    if (wanted && !isRaw) {
      try {
        raw.control.value = pretty(fields.read());
      } catch {
        // What is not finished yet stays in the form.
      }
    }
    isRaw = wanted;
    show();
  }
  function show() {
    modes.forEach((button, index) => button.setAttribute("aria-pressed", String((index === 1) === isRaw)));
    replace(body, isRaw ? raw.element : fields.element);
  }

  async function invoke() {
    let data;
    try {
      data = isRaw ? raw.read() : fields.read();
    } catch (error) {
      error.control?.focus();
      return;
    }
    const seconds = Number(patience.value);
    if (!(seconds > 0 && seconds <= 86_400)) {
      replace(output, problem(new CallError("Input", "the seconds to wait are a number between 0 and 86400")));
      patience.focus();
      return;
    }
    const traceparent = newTraceparent();
    const trace = () => link(["traces", traceparent.split("-")[1]], "its trace");
    replace(output, h("p", {}, "running…"));
    const begun = performance.now();
    const took = () => duration(performance.now() - begun);
    try {
      const result = await app.call(info.function_id, data, { namespace: info.namespace, traceparent, timeout: seconds * 1000 });
      replace(output, h("p", { class: "ok" }, `returned in ${took()} · `, trace()), json(pretty(result), "Result"));
    } catch (error) {
      replace(output, h("p", {}, `failed in ${took()} · `, trace()), problem(error));
    }
  }
  show();
  const switcher = fields !== null && h("div", { class: "modes", role: "group", "aria-label": "How to enter the payload" }, ...modes);
  return h("section", { class: "caller", "aria-label": "Invoke" }, h("h4", {}, "Invoke"), switcher, form("Invoke", invoke, body, h("label", { class: "patience" }, "wait ", patience, " s")), output);
}

// -- triggers ---------------------------------------------------------------------------------------------------------

export const triggers = {
  title: "Triggers",
  topics: ["functions", "workers"],
  poll: 2000,
  mount(root, app) {
    const ui = split(root, { base: "triggers", title: "Triggers", placeholder: "Filter triggers", onfilter: app.refresh });
    const kind = choice("What to list", [["trigger", "triggers"], ["type", "trigger types"]], app.refresh);
    const internal = toggle("the engine's own", app.refresh);
    ui.controls.append(kind.element, internal.element);
    let path = [];

    async function refresh() {
      const [{ registered_triggers: bound }, { triggers: types }] = await Promise.all([
        app.call("engine::registered-triggers::list", { include_internal: true }),
        app.call("engine::triggers::list", { include_internal: true }),
      ]);
      const isOwn = (each) => /^(console-[0-9a-f]{8}::|iii-[a-z-]+::on-config-change$)/.test(each.function_id);
      const all = kind.value === "type" ? types : bound.filter((each) => internal.on || !isOwn(each));
      const shown = all.filter((each) => matches(ui.needle(), each.id, each.trigger_type, each.function_id, each.description, each.config_summary));
      ui.count(shown.length, all.length);
      const render = kind.value === "type" ? typeRow : triggerRow;
      keyed(ui.list, shown, (each) => `${kind.value} ${each.namespace} ${each.id}`, render, "Nothing here.");
      ui.choose(path);
      if (path.length) await showDetail([...path]);
    }

    async function showDetail([what, id, namespace]) {
      const asked = what === "type" ? ["engine::triggers::info", { id, namespace }] : ["engine::registered-triggers::info", { id }];
      const content = await answer(app.call(...asked));
      if (path[0] === what && path[1] === id) once(ui.detail, content, () => (what === "type" ? typeDetail : triggerDetail)(ui, id, content));
    }
    return { refresh, route: (given) => { path = given; opened(ui, path); } };
  },
};

function triggerRow(each) {
  return row(["triggers", "trigger", each.id], [badge(each.trigger_type, "type"), " ", each.function_id], [], each.config_summary);
}

function typeRow(each) {
  return row(["triggers", "type", each.id, each.namespace], each.id, [badge(each.worker_name)], each.description);
}

function triggerDetail(ui, id, info) {
  if (info instanceof Error) return [ui.back(), h("h3", {}, id), problem(info)];
  return [
    ui.back(),
    h("h3", {}, info.trigger_type),
    facts([
      ["calls", functionLink(info.function_id, info.function?.namespace)],
      ["worker", info.worker_name],
      ["id", info.id],
      ["provided by", info.trigger?.worker_name],
    ]),
    info.function === null && h("p", { class: "warning" }, "There is no such function at the moment."),
    h("h4", {}, "Configuration"),
    json(pretty(info.config), "Configuration"),
    info.metadata !== undefined && [h("h4", {}, "Metadata"), json(pretty(info.metadata), "Metadata")],
  ];
}

function typeDetail(ui, id, info) {
  if (info instanceof Error) return [ui.back(), h("h3", {}, id), problem(info)];
  return [
    ui.back(),
    h("h3", {}, info.id),
    h("p", {}, info.description),
    facts([["provided by", info.worker_name], ["namespace", info.namespace], ["in use", plural(info.instance_count, "trigger")]]),
    schema("Configuration", info.configuration_schema),
    schema("Calls with", info.request_schema),
    schema("Wants back", info.response_schema),
  ];
}

// -- details ----------------------------------------------------------------------------------------------------------

/** What a call comes to: its result, or the engine's error as a value. A lost connection is no answer. */
export async function answer(promise) {
  try {
    return await promise;
  } catch (error) {
    if (["CONNECTION_LOST", "NOT_CONNECTED"].includes(error.code)) throw error;
    return error;
  }
}

/** Make details anew only when they say something else. */
export function once(detail, content, make) {
  const text = content instanceof Error ? `${content.code} ${content.message}` : JSON.stringify(content);
  if (detail.shown === text) return;
  detail.shown = text;
  const focused = document.activeElement;
  const place = detail.contains(focused) ? focusable(detail).indexOf(focused) : -1;
  const isOpen = [...detail.querySelectorAll("details")].map((each) => each.open);
  replace(detail, ...make().flat(Infinity).filter(Boolean));
  detail.querySelectorAll("details").forEach((each, index) => { if (isOpen[index]) each.open = true; });
  if (place >= 0) (focused.isConnected ? focused : focusable(detail)[place])?.focus();
}

/** Another place in the same view: empty until it has been read. */
export function opened(ui, path) {
  const place = JSON.stringify(path);
  if (ui.detail.place !== place) {
    ui.detail.place = place;
    ui.detail.shown = undefined;
    ui.detail.caller = undefined;
    replace(ui.detail, path.length ? ui.back() : h("p", { class: "empty" }, "Choose one from the list."));
  }
  ui.choose(path);
}
