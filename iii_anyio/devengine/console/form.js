// A form from a JSON Schema, for what people type; what it cannot offer is entered as JSON.

import { h, newId } from "./dom.js";
import { parse, pretty } from "./json.js";

const MAX_DEPTH = 4;

export class InputError extends Error {
  constructor(message, control) {
    super(message);
    this.name = "Input";
    this.control = control;
  }
}

/** Whether a schema describes an object whose fields can be asked for one by one. */
export function hasFields(schema) {
  const { schema: plain } = simplify(schema ?? {}, schema ?? {});
  return plain.type === "object" && Object.keys(plain.properties ?? {}).length > 0;
}

/** {element, read()}: `read` returns the value, or throws InputError. */
export function formOf(schema) {
  return objectField(simplify(schema, schema).schema, schema, "", 0);
}

/** {element, read(), write(value)}: a text area of JSON. */
export function jsonField(label, initial, { required = true, rows = 6 } = {}) {
  const id = newId("field");
  const control = h("textarea", { id, rows, spellcheck: "false", class: "code", "aria-describedby": `${id}-problem` });
  control.value = initial;
  const element = h("div", { class: "field" }, h("label", { for: id }, label), control, problemOf(control));
  return {
    element,
    control,
    read: () => {
      if (!control.value.trim() && !required) return undefined;
      return checked(control, () => parse(control.value), (error) => `no JSON: ${error.message}`);
    },
  };
}

/** Resolve a reference, and take null out of a union: that is what a field left empty means. */
function simplify(schema, root, depth = 0) {
  if (typeof schema !== "object" || schema === null || depth > 8) return { schema: {}, nullable: false };
  if (typeof schema.$ref === "string" && schema.$ref.startsWith("#/")) {
    const found = schema.$ref
      .slice(2)
      .split("/")
      .reduce((node, part) => node?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], root);
    const { $ref: _, ...own } = schema;
    return simplify({ ...(found ?? {}), ...own }, root, depth + 1);
  }
  const union = schema.anyOf ?? schema.oneOf;
  if (Array.isArray(union)) {
    const rest = union.filter((each) => each?.type !== "null");
    const { anyOf: _, oneOf: __, ...own } = schema;
    if (rest.length !== 1) return { schema: own, nullable: rest.length < union.length };
    return { schema: { ...simplify(rest[0], root, depth + 1).schema, ...own }, nullable: rest.length < union.length };
  }
  if (Array.isArray(schema.allOf) && schema.allOf.length === 1) {
    const { allOf: _, ...own } = schema;
    return simplify({ ...schema.allOf[0], ...own }, root, depth + 1);
  }
  if (Array.isArray(schema.type)) {
    const rest = schema.type.filter((type) => type !== "null");
    const type = rest.length === 1 ? rest[0] : undefined;
    return { schema: { ...schema, type }, nullable: rest.length < schema.type.length };
  }
  return { schema, nullable: false };
}

function objectField(schema, root, path, depth) {
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const at = path ? `${path}.${name}` : name;
    return [name, field(name, property, root, at, required.has(name), depth + 1)];
  });
  return {
    element: h("div", { class: "fields" }, ...fields.map(([, each]) => each.element)),
    read: () => {
      const entries = fields.map(([name, each]) => [name, each.read()]).filter(([, value]) => value !== undefined);
      // `__proto__` as a name stays a field of its own.
      return Object.fromEntries(entries);
    },
  };
}

function field(name, given, root, path, required, depth) {
  const { schema } = simplify(given, root);
  const label = [name, required && h("span", { class: "required", title: "required" }, " *")];
  if (schema.type === "object" && hasFields({ ...root, ...schema }) && required && depth < MAX_DEPTH) {
    const inner = objectField(schema, root, path, depth);
    return { element: h("fieldset", {}, h("legend", {}, name), inner.element), read: inner.read };
  }
  const id = newId("field");
  const attributes = { id, name: path, "aria-describedby": `${id}-problem`, required, "aria-required": required };
  const hint = [kindOf(schema), schema.description].filter(Boolean).join(" · ");
  const wrap = (control) =>
    h("div", { class: "field" }, h("label", { for: id }, ...label, " ", h("small", {}, hint)), control, problemOf(control));
  const initial = schema.default;
  const options = Array.isArray(schema.enum) ? schema.enum : schema.type === "boolean" ? [true, false] : null;
  if (options !== null) {
    const texts = options.map((option) => JSON.stringify(option));
    const control = h(
      "select",
      attributes,
      h("option", { value: "" }, required ? "choose…" : "not given"),
      ...options.map((option, index) => h("option", { value: texts[index] }, String(option))),
    );
    if (initial !== undefined && initial !== null) control.value = JSON.stringify(initial);
    return { element: wrap(control), read: () => given_(control, required, () => parse(control.value)) };
  }
  if (schema.type === "string") {
    const isLong = (schema.maxLength ?? 0) > 200;
    const control = h(isLong ? "textarea" : "input", { ...attributes, autocomplete: "off" });
    control.value = initial ?? "";
    // Empty is a fine string when one is asked for.
    return { element: wrap(control), read: () => (control.value || required ? control.value : undefined) };
  }
  if (schema.type === "integer" || schema.type === "number") {
    const control = h("input", { ...attributes, inputmode: schema.type === "integer" ? "numeric" : "decimal", autocomplete: "off" });
    control.value = initial ?? "";
    return { element: wrap(control), read: () => given_(control, required, () => numberFrom(control.value.trim(), schema.type)) };
  }
  const control = h("textarea", { ...attributes, rows: 3, spellcheck: "false", class: "code" });
  control.value = initial === undefined ? (required ? example(schema) : "") : pretty(initial);
  return { element: wrap(control), read: () => given_(control, required, () => parse(control.value), "no JSON: ") };
}

const kindOf = (schema) => (schema.enum ? "" : schema.type === undefined ? "JSON" : ["array", "object"].includes(schema.type) ? `${schema.type} as JSON` : schema.format ?? schema.type);

const example = (schema) => (schema.type === "array" ? "[]" : schema.type === "object" ? "{}" : "null");

function numberFrom(text, type) {
  // What is no number in JSON ("1,5", "0x10") is no number here; large integers keep their digits.
  const value = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text) ? parse(text) : undefined;
  if (value === undefined) throw new Error(`${text} is no number`);
  if (type === "integer" && !/^-?\d+$/.test(text)) throw new Error(`${text} is no integer`);
  return value;
}

function given_(control, required, read, prefix = "") {
  if (!control.value.trim()) {
    if (!required) return undefined;
    return checked(control, () => { throw new Error("a value is needed"); });
  }
  return checked(control, read, (error) => prefix + error.message);
}

function checked(control, read, describe = (error) => error.message) {
  const place = control.problem;
  try {
    const value = read();
    control.removeAttribute("aria-invalid");
    place.textContent = "";
    return value;
  } catch (error) {
    const message = describe(error);
    control.setAttribute("aria-invalid", "true");
    place.textContent = message;
    throw new InputError(`${control.name || "the input"}: ${message}`, control);
  }
}

function problemOf(control) {
  control.problem = h("p", { class: "field-problem", id: `${control.id}-problem`, "aria-live": "polite" });
  return control.problem;
}
