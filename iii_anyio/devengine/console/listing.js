// A list beside what is chosen in it; on a narrow screen one of the two.

import { h, hash, link, replace } from "./dom.js";

/**
 * {list, detail, controls, needle(), choose(path)}: `list` is for keyed rows that `row` makes, `detail` for the chosen one.
 */
export function split(root, { base, title, placeholder, onfilter }) {
  const search = placeholder && h("input", { type: "search", placeholder, "aria-label": placeholder, oninput: onfilter });
  const controls = h("div", { class: "controls" }, search);
  const list = h("div", { class: "rows" });
  const count = h("span", { class: "count" });
  const heading = h("h2", {}, title, " ", count);
  const detail = h("section", { class: "detail", "aria-label": `${title}: details` });
  const parts = h("div", { class: "split" }, h("section", { class: "list", "aria-label": title }, heading, controls, list), detail);
  replace(root, parts);
  return {
    list,
    detail,
    controls,
    count: (shown, total) => {
      const text = shown === total ? `${total}` : `${shown} of ${total}`;
      if (count.textContent !== text) count.textContent = text;
    },
    needle: () => (search ? search.value.trim().toLowerCase() : ""),
    /** Mark the chosen row, and show its details on a narrow screen. */
    choose: (path) => {
      parts.classList.toggle("chosen", path.length > 0);
      const chosen = path.length ? link([base, ...path], "").getAttribute("href") : null;
      for (const row of list.querySelectorAll("a.row")) {
        if (row.getAttribute("href") === chosen) row.setAttribute("aria-current", "true");
        else row.removeAttribute("aria-current");
      }
    },
    back: () => link([base], `← ${title}`, { class: "back" }),
  };
}

export function row(path, main, side, sub) {
  const line = h("span", { class: "line" }, h("span", { class: "main" }, main), h("span", { class: "side" }, side));
  return h("a", { href: hash(path), class: "row" }, line, sub && h("span", { class: "sub" }, sub));
}

export function matches(needle, ...texts) {
  return !needle || texts.some((text) => String(text ?? "").toLowerCase().includes(needle));
}

/** A check box with its label. */
export function toggle(label, onchange) {
  const box = h("input", { type: "checkbox", onchange });
  return { element: h("label", { class: "toggle" }, box, " ", label), get on() { return box.checked; } };
}

/** A select with its label; `options` are [value, text]. */
export function choice(label, options, onchange) {
  const select = h("select", { "aria-label": label, onchange }, ...options.map(([value, text]) => h("option", { value }, text)));
  return { element: select, get value() { return select.value; } };
}

/** A button that says when what it started has failed. */
export function action(label, run, { kind = "", confirm: question } = {}) {
  const button = h("button", { type: "button", class: kind }, label);
  button.addEventListener("click", async () => {
    if (question && !window.confirm(question)) return;
    button.disabled = true;
    try {
      await run();
    } catch (error) {
      window.alert(`${error.code ?? error.name}: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

/** Runs `submit` on Enter in a field, on Ctrl+Enter everywhere, and by its button. */
export function form(label, submit, ...children) {
  const button = h("button", { type: "submit", class: "primary" }, label);
  const element = h("form", { novalidate: true }, ...children, h("div", { class: "buttons" }, button));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    try {
      await submit();
    } finally {
      button.disabled = false;
    }
  });
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element.requestSubmit();
  });
  return element;
}
