/** Small helpers for the document: they write only what changes, so that a frame of progress costs no layout. */

const named = globalThis.document?.querySelectorAll("[id]") ?? []; // none in Node

export const $ = Object.fromEntries([...named].map((element) => [element.id, element]));

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

export function attribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes an element: `make("a", { href }, "text", child, …)`; names with a dash and `role` are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Milliseconds of a clock that cannot be set; in a sleep it may stand still. */
export function clock() {
  return performance.now();
}

export function instant() {
  return { clock: clock(), wall: Date.now() };
}

/** Milliseconds since an instant by the clock that went further: one may have stood still, the other been set back. */
export function age(then) {
  return Math.max(clock() - then.clock, Date.now() - then.wall);
}

/** Hands a blob to the person as a file. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const failures = {}; // module: how often it did not come

/**
 * Imports a module of this folder. One that did not come is asked for by another address the next time: many browsers remember
 * for a whole page which modules they did not get.
 */
export async function part(name) {
  const query = failures[name] ? `?${failures[name]}` : "";
  try {
    return await import(`./${name}.js${query}`);
  } catch (error) {
    failures[name] = (failures[name] ?? 0) + 1;
    throw error;
  }
}

/** Loads a style sheet of this folder once; resolves when it is there, or cannot be had. */
export function style(name) {
  const href = `/static/app/${name}.css`;
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  const link = make("link", { rel: "stylesheet", href });
  document.head.append(link);
  return new Promise((resolve) => {
    link.onload = resolve;
    link.onerror = () => resolve(link.remove());
  });
}
