// JSON without loss: integers beyond 2^53 keep their digits, where the browser can (JSON.rawJSON), so that what is
// shown is what is stored, and a value that is edited elsewhere does not change.

const isExact = typeof JSON.rawJSON === "function";

function keepDigits(_key, value, context) {
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source) {
    return /^-?\d+$/.test(context.source) ? JSON.rawJSON(context.source) : value;
  }
  return value;
}

export function parse(text) {
  return isExact ? JSON.parse(text, keepDigits) : JSON.parse(text);
}

export const stringify = JSON.stringify;

/** For people: indented. What is not there at all is empty. */
export function pretty(value) {
  return value === undefined ? "" : JSON.stringify(value, null, 2);
}

/** A number to calculate with; of a very large integer the nearest. */
export function number(value) {
  return isExact && JSON.isRawJSON(value) ? Number(value.rawJSON) : Number(value);
}

/** On one line, cut off. */
export function short(value, length = 160) {
  const text = value === undefined ? "" : JSON.stringify(value);
  return text.length > length ? `${text.slice(0, length)}…` : text;
}
