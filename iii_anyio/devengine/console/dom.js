// Elements from values. Text goes in as text, never as markup.

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else if (key === "value" || key === "checked" || key === "selected" || key === "htmlFor") element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

/**
 * Show a list, keeping the elements whose item is the same as before, so that focus and selection survive.
 * `render(item)` makes one element; `key(item)` tells items apart.
 */
export function keyed(parent, items, key, render, empty) {
  const before = parent.rows ?? new Map();
  const rows = new Map();
  const focused = document.activeElement;
  let refocus = null;
  for (const item of items) {
    const id = key(item);
    const text = JSON.stringify(item);
    const old = before.get(id);
    if (old?.text === text) {
      rows.set(id, old);
      continue;
    }
    const element = render(item);
    rows.set(id, { text, element });
    if (old?.element.contains(focused)) {
      const index = focusable(old.element).indexOf(focused);
      refocus = focusable(element)[index] ?? element;
    }
  }
  parent.rows = rows;
  const wanted = [...rows.values()].map((row) => row.element);
  if (!wanted.length && empty) wanted.push(h("p", { class: "empty" }, empty));
  const present = new Set(wanted);
  for (const child of [...parent.children]) if (!present.has(child)) child.remove();
  wanted.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  refocus?.focus();
}

/** What of it can have the focus, itself included, in order. */
export function focusable(element) {
  const selector = "a[href], button, input, select, textarea, summary, [tabindex]";
  return [...(element.matches(selector) ? [element] : []), ...element.querySelectorAll(selector)];
}

let ids = 0;
export const newId = (prefix) => `${prefix}-${++ids}`;

export function badge(text, kind = "") {
  return h("span", { class: `badge ${kind}` }, text);
}

export function json(value, label) {
  return h("pre", { class: "json", tabindex: 0, "aria-label": label, role: "region" }, value);
}

export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", { class: "facts" }, ...shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function link(path, text, attributes = {}) {
  return h("a", { href: hash(path), ...attributes }, text);
}

/** Where a view is found: its parts may hold any character. */
export function hash(path) {
  return `#/${path.map(encodeURIComponent).join("/")}`;
}

export function problem(error) {
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("strong", {}, error.code ?? error.name),
    h("p", {}, error.message),
    error.stacktrace && h("details", {}, h("summary", {}, "Stack trace"), h("pre", { class: "json" }, error.stacktrace)),
  );
}

export function clock(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  const time = `${date.toLocaleTimeString([], { hour12: false })}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return today ? time : `${date.toLocaleDateString()} ${time}`;
}

export function duration(ms) {
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(2)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}
