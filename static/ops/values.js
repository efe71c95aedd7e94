/** Numbers and times as operators read them, and elements: text is always text, never markup. */

/** Returns a duration in a few characters: 0.4 s, 12 s, 3 m 05 s, 2 h 10 m. */
export function duration(seconds) {
  const all = Math.max(0, seconds);
  if (all < 9.95) return `${all.toFixed(1)} s`;
  const whole = Math.round(all);
  if (whole < 60) return `${whole} s`;
  const pad = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} m`;
}

/** Returns the seconds from one time to another, both as the server writes them. */
export const between = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;

/** Returns the time of day, to the second, in the reader's zone. */
export const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

/** Returns a whole number with its thousands apart. */
export const whole = (number) => number.toLocaleString("en");

/** Returns an id short enough for a table: its beginning is its time, its end is its own. */
export const short = (id) => `${id.slice(0, 8)}…${id.slice(-6)}`;

/** Returns "1 job", "2 jobs". */
export const counted = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

/**
 * Returns an element with attributes and children; texts become text nodes.
 * An attribute that is null, undefined or false is left out.
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets the text of an element if it differs: what has not changed is not drawn or read out again. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
