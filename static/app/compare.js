/**
 * Before and after in one frame: a line to drag over two pictures that lie on each other, and zoom.
 *
 * The line is a native range input: arrow keys, Home and End, and screen readers work as on any slider. A finger or a pointer
 * moves it anywhere in the frame; up and down still scrolls the page. Zoomed in, dragging beside the line moves the pictures.
 * Frame and pictures are the caller's: nothing here changes their size, so nothing around them moves.
 */

import { make, show } from "./dom.js";

const MOST = 4; // times
const STEP = 1.5; // times, of a button or a key
const GRIP = 28; // px beside the line that take hold of it while zoomed in
const TAP_MS = 300; // between the taps of a double tap
const STILL = 6; // px that a tap may move

const NEUTRAL = { zoom: 1, x: 0, y: 0 };

/** The view after zooming by `factor` at a point of the frame, in px; what lies there stays there. */
export function zoomed(view, factor, at, size) {
  const zoom = Math.min(Math.max(view.zoom * factor, 1), MOST);
  const kept = zoom / view.zoom;
  return held({ zoom, x: at.x - (at.x - view.x) * kept, y: at.y - (at.y - view.y) * kept }, size);
}

/** The view moved by a distance, in px. */
export function panned(view, dx, dy, size) {
  return held({ ...view, x: view.x + dx, y: view.y + dy }, size);
}

/** The pictures cover the frame: no edge comes in. */
function held({ zoom, x, y }, { width, height }) {
  const within = (value, length) => Math.min(Math.max(value, length * (1 - zoom)), 0) + 0; // no -0
  return { zoom, x: within(x, width), y: within(y, height) };
}

/** The part of the frame, 0 to 1, at which `clientX` is. */
export function fraction(clientX, { left, width }) {
  return width > 0 ? Math.min(Math.max((clientX - left) / width, 0), 1) : 0.5;
}

/**
 * Mounts into `root`, a frame with `position: relative`, over two pictures that fill it: `before` and `after`. Returns `{ begin(at),
 * end() }`; `at`: where the line stands, 0 to 1.
 */
export function mount(root, { say = () => {} }, { before, after }) {
  const { tools, range, buttons } = build();
  before.classList.add("compare-before");
  after.classList.add("compare-after");
  root.append(...tools);
  let active = false;
  let view = NEUTRAL;
  const pointers = new Map(); // id: { x, y, first, line }
  let tap = { at: -Infinity, x: 0, y: 0 };

  const frame = () => root.getBoundingClientRect();
  const point = ({ clientX, clientY }, { left, top }) => ({ x: clientX - left, y: clientY - top });

  function line(part) {
    const percent = Math.round(part * 100);
    range.value = String(percent);
    range.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
    root.style.setProperty("--at", `${percent}%`);
  }

  function look(next, spoken = false) {
    view = next;
    root.style.setProperty("--zoom", view.zoom);
    root.style.setProperty("--x", `${view.x}px`);
    root.style.setProperty("--y", `${view.y}px`);
    root.dataset.zoomed = String(view.zoom > 1);
    buttons.in.setAttribute("aria-disabled", String(view.zoom >= MOST));
    for (const each of [buttons.out, buttons.fit]) each.setAttribute("aria-disabled", String(view.zoom <= 1));
    if (spoken) say(view.zoom > 1 ? `Zoomed to ${Math.round(view.zoom * 100)} %` : "Whole picture");
  }

  function zoom(factor, at = null, spoken = false) {
    const { width, height } = frame();
    look(zoomed(view, factor, at ?? { x: width / 2, y: height / 2 }, { width, height }), spoken);
  }

  range.addEventListener("input", () => line(range.valueAsNumber / 100));
  buttons.in.addEventListener("click", () => view.zoom < MOST && zoom(STEP, null, true));
  buttons.out.addEventListener("click", () => view.zoom > 1 && zoom(1 / STEP, null, true));
  buttons.fit.addEventListener("click", () => view.zoom > 1 && look(NEUTRAL, true));

  root.addEventListener("keydown", (event) => {
    if (!active || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key === "+" || event.key === "=") zoom(STEP, null, true);
    else if (event.key === "-") zoom(1 / STEP, null, true);
    else if (event.key === "0" && view.zoom > 1) look(NEUTRAL, true);
    else if (event.shiftKey && moves[event.key] && view.zoom > 1) look(panned(view, ...moves[event.key], frame()));
    else return;
    event.preventDefault();
  });

  root.addEventListener("pointerdown", (event) => {
    if (!active || event.button !== 0 || event.target.closest("button")) return;
    const rect = frame();
    const at = point(event, rect);
    const far = Math.abs(at.x - (range.valueAsNumber / 100) * rect.width);
    const onLine = view.zoom === 1 || far <= GRIP;
    pointers.set(event.pointerId, { ...at, first: at, line: onLine });
    root.setPointerCapture(event.pointerId);
    range.focus({ preventScroll: true, focusVisible: false });
    event.preventDefault(); // no drag of the picture, no selection
  });

  root.addEventListener("pointermove", (event) => {
    const held = pointers.get(event.pointerId);
    if (!held) return;
    const rect = frame();
    const at = point(event, rect);
    if (pointers.size === 2) pinch(event.pointerId, at, rect);
    else if (held.line) line(fraction(event.clientX, rect));
    else look(panned(view, at.x - held.x, at.y - held.y, rect));
    Object.assign(held, at);
  });

  function pinch(id, at, rect) {
    const other = [...pointers].find(([each]) => each !== id)[1];
    const old = pointers.get(id);
    const apart = (a, b) => Math.hypot(a.x - b.x, a.y - b.y);
    const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
    for (const each of pointers.values()) each.line = false; // the line stays where it is
    look(zoomed(view, apart(at, other) / Math.max(1, apart(old, other)), middle, rect));
  }

  function release(event) {
    const held = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (!held || event.type !== "pointerup") return;
    const rect = frame();
    const at = point(event, rect);
    if (Math.hypot(at.x - held.first.x, at.y - held.first.y) > STILL) return;
    const twice = event.timeStamp - tap.at < TAP_MS && Math.hypot(at.x - tap.x, at.y - tap.y) < 4 * STILL;
    tap = { at: twice ? -Infinity : event.timeStamp, ...at };
    if (twice) look(view.zoom > 1 ? NEUTRAL : zoomed(view, 2.5, at, rect), true);
    else if (held.line) line(fraction(event.clientX, rect));
  }

  root.addEventListener("pointerup", release);
  root.addEventListener("pointercancel", release);
  root.addEventListener(
    "wheel",
    (event) => {
      if (!active || !event.ctrlKey) return; // a pinch on a trackpad, or Ctrl and the wheel; else the page scrolls
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 200), point(event, frame()));
    },
    { passive: false },
  );
  new ResizeObserver(() => view.zoom > 1 && look(panned(view, 0, 0, frame()))).observe(root);

  function begin(at = 0.5) {
    if (active) return;
    active = true;
    look(NEUTRAL);
    line(at);
    mark();
  }

  function end() {
    if (!active) return;
    active = false;
    pointers.clear();
    look(NEUTRAL);
    mark();
  }

  function mark() {
    root.classList.toggle("comparing", active);
    for (const tool of tools) show(tool, active);
  }

  mark();
  return { begin, end };
}

function build() {
  const range = make("input", { type: "range", className: "compare-range", min: "0", max: "100", step: "1", "aria-label": "Before and after" });
  const tags = ["before", "after"].map((side) =>
    make("span", { className: `compare-tag compare-tag-${side}`, textContent: side === "before" ? "Before" : "After", "aria-hidden": "true" }),
  );
  const zoom = make("div", { className: "compare-zoom", role: "group", "aria-label": "Zoom" });
  const button = (textContent, title, label = title) => {
    const made = make("button", { type: "button", textContent, title, "aria-label": label });
    zoom.append(made);
    return made;
  };
  const buttons = { out: button("−", "Zoom out"), fit: button("Fit", "Show the whole picture", "Fit the whole picture"), in: button("+", "Zoom in") };
  const rule = make("div", { className: "compare-line", "aria-hidden": "true" });
  return { tools: [range, rule, ...tags, zoom], range, buttons };
}
