// Small helpers that all parts of the page share.
export const number = (value) => value.toLocaleString("en");
export const short = (name, length = 28) =>
  name.length <= length ? name : `${name.slice(0, Math.floor(length / 2) - 1)}…${name.slice(1 - Math.floor(length / 2))}`;
export const change = (before, after) => (before === after ? number(before) : `${number(before)} → ${number(after)}`);

export function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// A bar to scale: how much there was, and how much of it there is.
export function bar(before, after, most) {
  const outer = element("span", undefined, { class: "bar scaled", "aria-hidden": "true" }), inner = element("i");
  outer.style.width = `${Math.max(2, (100 * before) / Math.max(1, most))}%`;
  inner.style.width = `${(100 * after) / Math.max(1, before)}%`;
  outer.append(inner);
  return outer;
}
