/**
 * Choose: a slot for each of the processor's roles, filled by choosing, taking, pasting or dropping a picture, or by a sample.
 * Nothing is sent before the button is pressed.
 *
 * A role that takes several pictures has a place for each, shown once the one before is filled. A place has a key: the role's
 * name, `garment`, with a number from the second on, `garment-1`; no role's name has a dash.
 */

import { $, attribute, make, part, show, text } from "./dom.js";
import { card } from "./errors.js";
import { onArrive, onChoose } from "./photos.js";
import { NOT_LOADED, formatNames, fromNow, kilobytes, sentence } from "./words.js";

const ROLES = [
  { name: "person", required: true, count: 1, hint: "" },
  { name: "garment", required: false, count: 1, hint: "" },
]; // until the processor says
const SAMPLES = { person: ["person-1", "person-2"], garment: ["garment-1", "garment-2"] };
const ANY_CHOOSER = "android/allow-camera"; // why: index.html
const SHORT_HINT = 16; // characters: a hint that says no more than the title
const ICONS = {
  camera: "M4 8.5h3.5L9 6h6l1.5 2.5H20a1 1 0 0 1 1 1V18a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V9.5a1 1 0 0 1 1-1Zm8 8a3 3 0 1 0 0-6 3 3 0 0 0 0 6Z",
  paste: "M9 5H6.5a1 1 0 0 0-1 1v13.5a1 1 0 0 0 1 1h11a1 1 0 0 0 1-1V6a1 1 0 0 0-1-1H15M9 3.5h6v3.5H9Z",
  remove: "m7 7 10 10m0-10L7 17",
};
const TOUCH = matchMedia("(hover: none)").matches;

let api = null;
let checking = 0;
let judge = null; // check.js, once it is loaded
const turns = new Map(); // place: counts what was put there or taken away; an answer to an earlier turn is dropped
let shownPlaces = "";
let shownNotice = null;

export function mount(given) {
  api = given;
  setUp();
  for (const image of $.example.querySelectorAll("img")) image.addEventListener("error", () => show($.example, false));
  $.go.addEventListener("click", go);
  onArrive({
    zones: () => [...$.slots.children].map((slot) => [slot, slot.dataset.role]),
    curtain: $.curtain,
    accepts,
    wanted: () => formatNames(api.state.limits?.formats),
    onFiles: arrive,
    onWords: (title) => complain({ title }),
  });
}

function roles() {
  return api.state.processor?.roles ?? ROLES;
}

const keyOf = (name, index) => (index > 0 ? `${name}-${index}` : name);

/** A role, with the place of this key in it: `{ …role, index, key }`. */
function placeOf(key) {
  const [name, index = 0] = key.split("-");
  const role = roles().find((each) => each.name === name) ?? roles()[0];
  return { ...role, index: Number(index), key };
}

/** Every place that may be filled: the first of each role, then the further ones. */
function allPlaces() {
  const all = roles().flatMap(({ name, count }) => Array.from({ length: count }, (_, index) => placeOf(keyOf(name, index))));
  return all.sort((one, other) => Math.sign(one.index) - Math.sign(other.index));
}

const filled = ({ key }) => api.state.slots.has(key);

/** The places on the page. */
function places() {
  return allPlaces().filter(({ name, index }) => index === 0 || api.state.slots.has(keyOf(name, index - 1)));
}

/** The pictures, `{ role, slot }`, those of a role in their order. */
export function pictures() {
  return allPlaces().filter(filled).map(({ name, key }) => ({ role: name, slot: api.state.slots.get(key) }));
}

function isPhoto({ name }) {
  return name === roles()[0].name;
}

/** The name of a place: the first one is the person who is looking at this. */
function title(place) {
  if (place.index > 0) return capital(noun(place));
  return isPhoto(place) ? "You" : sentence(place.name);
}

/** "your photo", "the garment", "garment 2" */
function noun(place) {
  const name = place.name.replaceAll("_", " ");
  if (place.index > 0) return `${isPhoto(place) ? "photo" : name} ${place.index + 1}`;
  return isPhoto(place) ? "your photo" : `the ${name}`;
}

/** "your photo", "the garment picture" */
function file(place) {
  return isPhoto(place) ? noun(place) : `${noun(place)} picture`;
}

function capital(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// --- the slots ------------------------------------------------------------------------------------------------------

/** Makes the slots fit the places; those that stand in the page are used first. */
function setUp() {
  const wanted = places();
  const formats = api.state.limits?.formats ?? ["image/*"];
  const key = JSON.stringify([wanted, formats]);
  if (key === shownPlaces) return;
  shownPlaces = key;
  wanted.forEach((place, n) => {
    const slot = $.slots.children[n] ?? $.slots.appendChild(copied(n));
    slot.dataset.role = place.key;
    if (!slot.dataset.ready) wire(slot);
    const [input] = slot.getElementsByTagName("input");
    text(slot.querySelector(".zone-title"), title(place));
    const hint = place.hint.length > SHORT_HINT ? place.hint : "";
    const how = TOUCH ? "Tap to choose" : "Drop, paste or choose";
    text(slot.querySelector(".zone-text"), hint || (place.required && place.index === 0 ? how : `Optional. ${how}`));
    input.accept = [...(place.formats?.length ? place.formats : formats), ANY_CHOOSER].join();
    input.multiple = place.count > place.index + 1; // further ones fill the places after it
    samples(slot, place.key);
  });
  while ($.slots.children.length > wanted.length) $.slots.lastElementChild.remove();
  attribute($.slots, "data-count", wanted.length);
}

function copied(n) {
  const slot = $.slots.children[1].cloneNode(true);
  delete slot.dataset.ready;
  delete slot.dataset.samples;
  for (const old of slot.querySelectorAll("button, .tools")) old.remove();
  const [zone, input, name, hint] = [".zone", "input", ".zone-title", ".zone-text"].map((found) => slot.querySelector(found));
  for (const [element, id] of [[zone, "zone"], [input, "input"], [name, "title"], [hint, "hint"]]) element.id = `slot-${n}-${id}`;
  attribute(input, "aria-labelledby", name.id);
  attribute(input, "aria-describedby", hint.id);
  return slot;
}

function wire(slot) {
  slot.dataset.ready = "yes";
  const role = () => slot.dataset.role;
  onChoose(slot.querySelector("input"), (files) => arrive(files, role()));
  const remove = make("button", { type: "button", className: "remove", hidden: true });
  remove.append(icon("remove"));
  remove.addEventListener("click", () => {
    empty(role());
    api.say(`${capital(noun(placeOf(role())))} is removed.`);
    api.set({ notice: null });
    slot.querySelector("input").focus();
  });
  const tools = make("div", { className: "tools" }, ...cameras(role), ...pasting(role));
  slot.append(remove, tools);
}

function icon(name) {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 22, height: 22, "aria-hidden": true })) attribute(svg, key, value);
  attribute(path, "d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Names a tool of a slot; the role may be another one later. */
function tool(element, name, words) {
  element.append(icon(name));
  attribute(element, "title", words);
  attribute(element.querySelector("input") ?? element, "aria-label", words);
  return element;
}

function slotOf(key) {
  return [...$.slots.children].find((slot) => slot.dataset.role === key);
}

/** The camera: the device's own on a phone, a window with its picture elsewhere. */
function cameras(role) {
  if (TOUCH) {
    const input = make("input", { type: "file", accept: "image/*", className: "unseen" });
    input.setAttribute("capture", "user");
    onChoose(input, (files) => arrive(files, role()));
    return [tool(make("label", { className: "tool" }, input), "camera", "Take a photo")];
  }
  if (!navigator.mediaDevices?.getUserMedia) return [];
  const button = tool(make("button", { type: "button", className: "tool" }), "camera", "Take a photo");
  button.addEventListener("click", () =>
    api.use("camera", async ({ takePhoto }) => {
      const file = await takePhoto(noun(placeOf(role()))).catch((error) => complain({ title: error.message }));
      if (file) arrive([file], role());
    }),
  );
  return [button];
}

function pasting(role) {
  if (!navigator.clipboard?.read) return [];
  const button = tool(make("button", { type: "button", className: "tool" }), "paste", "Paste a picture");
  button.addEventListener("click", async () => {
    const file = await clipboardPicture();
    if (file) arrive([file], role());
    else complain({ title: "There is no picture on the clipboard.", text: "Copy one first, or choose a file." });
  });
  return [button];
}

async function clipboardPicture() {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((each) => each.startsWith("image/"));
      if (type) return new File([await item.getType(type)], "pasted picture", { type });
    }
  } catch {
    // not allowed: as good as empty
  }
  return null;
}

/** Two pictures of the project's own, to try it at once. */
function samples(slot, name) {
  if (slot.dataset.samples === name) return;
  slot.dataset.samples = name;
  const tools = slot.querySelector(".tools");
  for (const old of tools.querySelectorAll(".sample")) old.remove();
  (SAMPLES[name] ?? []).forEach((sample, n) => {
    const src = `/static/samples/${sample}.webp`;
    const words = `Use sample ${n + 1}: ${name}`;
    const image = make("img", { src, alt: "", "aria-hidden": "true", width: 40, height: 40 });
    const button = make("button", { type: "button", className: "sample", title: words, "aria-label": words }, image);
    image.addEventListener("error", () => button.remove());
    button.addEventListener("click", async () => {
      const blob = await fetch(src).then((answer) => (answer.ok ? answer.blob() : null)).catch(() => null);
      if (!blob) complain(NOT_LOADED);
      else arrive([new File([blob], `${sample}.webp`, { type: "image/webp" })], name);
    });
    tools.append(button);
  });
}

// --- what comes in --------------------------------------------------------------------------------------------------

function accepts() {
  const { phase, session, shared } = api.state;
  return !shared && phase !== "uploading" && !(phase === "following" && !session?.terminal);
}

/** Takes pictures for a place and the free ones of its role after it; without a key, for all free places, else the last one. */
async function arrive(files, key = null) {
  if (!accepts() || files.length === 0) return;
  if (api.state.phase !== "idle") {
    if (api.state.session) keep(api.state.session);
    api.act.leave();
  }
  const free = allPlaces().filter((place) => !filled(place));
  const place = key === null ? null : placeOf(key);
  const targets = place ? [place, ...free.filter((each) => each.name === place.name && each.key !== key)] : free;
  if (targets.length === 0) targets.push(allPlaces().at(-1));
  const taken = files.slice(0, targets.length);
  api.set({ notice: null }); // one of these pictures may be refused: the next ones leave that notice
  for (const [n, file] of taken.entries()) await fill(targets[n], file);
  if (files.length > taken.length) api.say(`One picture for each place: “${taken.at(-1).name}” was taken.`);
}

/** Returns a function that says whether something newer was put into the place, or another moment is on the screen. */
function turn({ key }) {
  const mine = (turns.get(key) ?? 0) + 1;
  turns.set(key, mine);
  return () => turns.get(key) !== mine || api.state.phase !== "idle";
}

/** Judges the picture and puts it into its slot; a picture that cannot be sent is shown with what to do. */
async function fill(place, chosen, { sure = false } = {}) {
  const late = turn(place);
  checking += 1;
  render(api);
  api.load();
  let found;
  try {
    judge = await part("check");
    found = await judge.examine(chosen, file(place), judge.limitsOf(place, api.state.limits));
  } catch {
    found = { width: null, height: null, shown: true, problem: null }; // the server judges it
  } finally {
    checking -= 1;
  }
  if (late()) {
    render(api);
    return;
  }
  const { width, height, shown, problem } = found;
  if (problem && !(sure && problem.doubt)) {
    await refuse(place, chosen, problem, late);
    return;
  }
  // One before it may have been refused: then it moves up.
  const target = filled(place) ? place : (allPlaces().find((each) => each.name === place.name && !filled(each)) ?? place);
  drop(target.key);
  api.state.slots.set(target.key, { file: chosen, url: URL.createObjectURL(chosen), name: chosen.name, width, height, shown, from: null });
  const missing = lacking();
  api.say(`${capital(noun(target))} is added. ${missing ? `Now add ${noun(missing)}.` : "Ready."}`);
  api.set({});
}

async function refuse(place, chosen, { title: what, text: why, shrink, doubt }, late) {
  const choose = { label: "Choose another", run: () => (slotOf(place.key) ?? $.slots.lastElementChild).querySelector("input").click() };
  const again = (file, options) => () => {
    api.set({ notice: null });
    fill(place, file, options);
  };
  const smaller = shrink ? await shrink() : null;
  if (late()) return;
  const actions = [choose];
  if (doubt) actions.push({ label: "Send it anyway", run: again(chosen, { sure: true }) });
  if (smaller) {
    const label = `${smaller.size < chosen.size ? "Shrink" : "Convert"}: ${kilobytes(chosen.size)} → ${kilobytes(smaller.size)}`;
    actions.unshift({ label, id: "shrink", run: again(smaller) });
  }
  complain({ title: what, text: why, part: place.key, actions });
}

/** Says beside the slots why nothing was taken. */
function complain(notice) {
  if (api.state.phase !== "idle") api.act.leave(notice);
  else api.set({ notice });
}

function drop(key) {
  const url = api.state.slots.get(key)?.url;
  if (url?.startsWith("blob:")) URL.revokeObjectURL(url);
  api.state.slots.delete(key);
}

/** Empties a place; the pictures after it in its role move up. */
function empty(key) {
  const { slots } = api.state;
  const { name, index } = placeOf(key);
  turn({ key });
  drop(key);
  for (let at = index + 1; slots.has(keyOf(name, at)); at += 1) {
    slots.set(keyOf(name, at - 1), slots.get(keyOf(name, at)));
    slots.delete(keyOf(name, at));
  }
}

/** Empties all places of a role; without one, all there are, as for an erased session. */
export function clear(name = null) {
  for (const key of [...api.state.slots.keys()]) if (name === null || placeOf(key).name === name) drop(key);
}

/** Puts the pictures of a session into the slots: the server has them, so they are not sent again. */
export function keep(session) {
  const { slots } = api.state;
  const { session_id: id, inputs } = session;
  const kept = new Map(inputs.map((input) => [keyOf(input.role, input.index), input]));
  for (const key of [...slots.keys()]) if (!kept.has(key)) drop(key);
  for (const [key, { role, index, link, width, height }] of kept) {
    if (slots.get(key)?.sentAs !== `${id} ${key}`) {
      drop(key);
      slots.set(key, { file: null, url: link, name: role, width, height, shown: true });
    }
    Object.assign(slots.get(key), { from: session, at: index });
  }
}

/** Notes which session the slots' pictures are in, and as what. */
export function sent({ session_id: id }) {
  for (const [key, slot] of api.state.slots) Object.assign(slot, { sentIn: id, sentAs: `${id} ${key}` });
}

export function focus(key) {
  (slotOf(key)?.querySelector("input") ?? $["choose-title"]).focus();
}

// --- the button -----------------------------------------------------------------------------------------------------

function lacking() {
  return places().find((place) => place.required && place.index === 0 && !filled(place)) ?? null;
}

function go() {
  const missing = lacking();
  if (checking > 0) return;
  if (missing) {
    api.say(`First add ${noun(missing)}.`);
    focus(missing.key);
  } else if (valid() && fits()) api.act.begin();
}

/** Shows the first option that is not as the processor wants it. */
function valid() {
  const wrong = [...$.params.querySelectorAll("input, select")].find((control) => !control.checkValidity());
  if (!wrong) return true;
  wrong.closest("details").open = true; // else there is nothing to point at
  return wrong.reportValidity();
}

function fits() {
  const { params, limits } = api.state;
  const files = pictures().flatMap(({ slot }) => (slot.file && !slot.from ? [slot.file] : []));
  const excess = judge?.excess(files, params, limits) ?? null;
  if (excess) complain(excess);
  return excess === null;
}

export function render({ state }) {
  if (state.phase !== "idle") return;
  setUp();
  for (const element of $.slots.children) renderSlot(element, state);
  if (state.notice !== shownNotice) {
    card($.notice, state.notice);
    if (state.notice) $.notice.scrollIntoView({ block: "nearest" });
  }
  shownNotice = state.notice;
  const missing = lacking();
  attribute($.go, "aria-disabled", missing !== null || checking > 0);
  text($.go, checking > 0 ? "Looking at it" : missing && state.slots.size > 0 ? `Now add ${noun(missing)}` : "Try it on");
  if (state.processor?.privacy) text($.privacy, `${state.processor.privacy} Location and other hidden data are removed.`);
  if (state.limits?.retention_seconds) text($.promise, `Gone ${fromNow(1000 * state.limits.retention_seconds)}.`);
  const schema = state.processor?.params_schema?.properties ?? {};
  if (Object.keys(schema).length > 0 && !$.params.dataset.ready) {
    $.params.dataset.ready = "yes";
    part("params").then(({ mount: form }) => form($.params, api), () => delete $.params.dataset.ready);
  }
}

function renderSlot(element, { slots, notice }) {
  const place = placeOf(element.dataset.role);
  const slot = slots.get(place.key);
  element.classList.toggle("filled", Boolean(slot));
  element.classList.toggle("bad", notice?.part === place.key);
  const remove = element.querySelector(".remove");
  show(remove, Boolean(slot));
  attribute(remove, "aria-label", `Remove ${noun(place)}`);
  const image = element.querySelector(".zone-picture");
  const url = slot?.shown ? slot.url : null;
  show(image, url !== null);
  if (url && image.getAttribute("src") !== url) image.src = url;
  if (!url) image.removeAttribute("src");
  image.alt = url ? `Chosen: ${noun(place)}` : "";
  attribute(image, "aria-hidden", url ? null : "true");
  element.dataset.name = slot && !slot.shown ? slot.name : "";
}
