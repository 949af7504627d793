// The page: views by address, one worker, what changed since. Views are in catalogue.js, tracing.js and data.js.
//
// Nothing is shown from memory: what the engine announces (topics) makes the view ask again, and so does a timer, for
// what the engine announces to nobody. Without a connection the page says since when what it shows is out of date.

import { functions, triggers, workers } from "./catalogue.js";
import { queues, state, streams } from "./data.js";
import { clock, hash, h, replace } from "./dom.js";
import { logs, traces } from "./tracing.js";
import { BrowserWorker } from "./wire.js";

const VIEWS = { workers, functions, triggers, traces, logs, state, streams, queues };
const NAMES = Object.keys(VIEWS);
/** What the engine announces, as trigger types, and the topic it becomes. */
const TOPICS = [
  ["engine::workers-available", "workers", {}],
  ["engine::functions-available", "functions", {}],
  ["trace", "traces", {}],
  ["log", "logs", { level: "all" }],
  ["state", "state", {}],
];
const GATHER = 100;

const main = document.querySelector("#main");
const notice = document.querySelector("#notice");
const connection = document.querySelector("#connection");
const help = document.querySelector("#help");

const app = {
  iii: null,
  engine: {},
  call: (functionId, data, options) => app.iii.call(functionId, data, options),
  /** Have the open view read again, soon; many wishes are one. */
  refresh: () => soon(),
  go: (path) => {
    location.hash = hash(path);
  },
};

let current = null; // {name, mounted}
let timer = null;
let poll = null;
let isReading = false;
let isWanted = false;
let readAt = null;

function soon(delay = 0) {
  if (timer === null) timer = setTimeout(read, delay);
}

async function read() {
  timer = null;
  if (isReading) {
    isWanted = true;
    return;
  }
  if (app.iii?.state !== "connected" || current === null) return;
  isReading = true;
  const { mounted, place } = current;
  try {
    await mounted.refresh();
    if (current?.mounted === mounted) {
      readAt = Date.now();
      main.dataset.place = place;
      say("");
    }
  } catch (error) {
    const isOver = ["CONNECTION_LOST", "NOT_CONNECTED"].includes(error.code);
    if (current?.mounted === mounted && !isOver) say(`Could not read: ${error.code ?? error.name}: ${error.message}`);
  } finally {
    isReading = false;
    if (isWanted || current?.mounted !== mounted) {
      isWanted = false;
      soon(GATHER);
    }
  }
}

function say(text) {
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

function route() {
  let parts;
  try {
    parts = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    parts = [""];
  }
  const [name, ...path] = parts;
  if (!Object.hasOwn(VIEWS, name)) {
    if (location.hash === "#main") return; // the skip link
    location.replace(hash([NAMES[0]]));
    return;
  }
  const args = path.filter((part, index) => part !== "" || index < path.length - 1);
  if (current?.name !== name) {
    current?.mounted.destroy?.();
    replace(main);
    say("");
    const view = VIEWS[name];
    current = { name, view, mounted: view.mount(main, app) };
    document.title = `${view.title} · iii console`;
    clearInterval(poll);
    poll = setInterval(() => !document.hidden && soon(), view.poll);
  }
  for (const item of document.querySelectorAll("#views a")) {
    if (item.dataset.view === name) {
      item.setAttribute("aria-current", "page");
      item.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else item.removeAttribute("aria-current");
  }
  current.place = location.hash.slice(2);
  current.mounted.route(args);
  soon();
}

function showConnection() {
  const { state, problem, url } = app.iii;
  const texts = {
    connecting: `connecting to ${url}`,
    connected: `connected to ${url.replace("ws://", "")}`,
    reconnecting: `connection lost; trying ${url} again.${readAt ? ` Shown is ${clock(readAt)}.` : ""}`,
    failed: problem,
    closed: "closed",
  };
  connection.textContent = texts[state];
  connection.dataset.state = state;
  document.body.classList.toggle("stale", state !== "connected");
  if (state === "connected") soon();
}

function keys(event) {
  if (help.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches?.("input, textarea, select");
  if (event.key === "Escape") {
    if (isTyping && event.target.type !== "search") event.target.blur();
    else closeDetail();
    return;
  }
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (isTyping && event.target.type !== "search") return;
    const rows = [...main.querySelectorAll(".list a.row")];
    const index = rows.indexOf(document.activeElement);
    if (!rows.length || (index < 0 && document.activeElement !== document.body && !isTyping)) return;
    const next = event.key === "ArrowDown" ? Math.min(index + 1, rows.length - 1) : Math.max(index - 1, 0);
    rows[next].focus();
    event.preventDefault();
    return;
  }
  if (isTyping) return;
  if (event.key === "?") {
    openHelp();
  } else if (event.key === "/") {
    main.querySelector("input[type=search]")?.focus();
    event.preventDefault();
  } else if (/^[1-9]$/.test(event.key) && NAMES[event.key - 1]) {
    app.go([NAMES[event.key - 1]]);
    document.querySelector(`#views a[data-view=${NAMES[event.key - 1]}]`).focus();
  }
}

function closeDetail() {
  const chosen = main.querySelector(".list a.row[aria-current]");
  const back = main.querySelector(".detail a.back");
  if (back === null) return;
  location.hash = back.getAttribute("href");
  chosen?.focus();
}

function openHelp() {
  if (!help.open) help.showModal();
}

function menu() {
  const items = NAMES.map((name, index) =>
    h(
      "li",
      {},
      h("a", { href: hash([name]), "data-view": name, "aria-keyshortcuts": index + 1 }, VIEWS[name].title),
    ),
  );
  document.querySelector("#views").append(...items);
  document.querySelector("#help-button").addEventListener("click", openHelp);
  document.addEventListener("keydown", keys);
  document.addEventListener("visibilitychange", () => !document.hidden && soon());
  window.addEventListener("hashchange", route);
}

async function start() {
  menu();
  try {
    app.engine = await (await fetch("engine.json")).json();
  } catch (error) {
    connection.textContent = `the engine does not answer: ${error.message}. Reload this page when it runs.`;
    connection.dataset.state = "failed";
    return;
  }
  const name = `console-${crypto.randomUUID().slice(0, 8)}`;
  app.iii = new BrowserWorker(app.engine.url, {
    runtime: "browser",
    version: app.engine.version,
    name,
    os: navigator.platform || "browser",
    description: "The console, in a browser",
  });
  for (const [type, topic, config] of TOPICS) {
    const functionId = `${name}::${topic}`;
    app.iii.register(functionId, () => heard(topic), { metadata: { internal: true } });
    app.iii.bind(type, functionId, config);
  }
  app.iii.addEventListener("state", showConnection);
  app.iii.open();
  route();
}

function heard(topic) {
  if (current?.view.topics.includes(topic)) soon(GATHER);
}

start();
