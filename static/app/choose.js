/**
 * Choose: a slot for each of the processor's roles, filled by choosing, taking, pasting or dropping a picture, or by a sample.
 * Nothing is sent before the button is pressed.
 */

import { $, attribute, make, show, text } from "./dom.js";
import { card } from "./errors.js";
import { onArrive, onChoose } from "./photos.js";
import { kilobytes, sentence } from "./words.js";

const ROLES = [
  { name: "person", required: true, count: 1, hint: "" },
  { name: "garment", required: false, count: 1, hint: "" },
]; // until the processor says
const SAMPLES = { person: ["person-1", "person-2"], garment: ["garment-1", "garment-2"] };
const SHORT_HINT = 16; // characters: a hint that says no more than the title
const ICONS = {
  camera: "M4 8.5h3.5L9 6h6l1.5 2.5H20a1 1 0 0 1 1 1V18a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V9.5a1 1 0 0 1 1-1Zm8 8a3 3 0 1 0 0-6 3 3 0 0 0 0 6Z",
  paste: "M9 5H6.5a1 1 0 0 0-1 1v13.5a1 1 0 0 0 1 1h11a1 1 0 0 0 1-1V6a1 1 0 0 0-1-1H15M9 3.5h6v3.5H9Z",
  remove: "m7 7 10 10m0-10L7 17",
};
const TOUCH = matchMedia("(hover: none)").matches;

let api = null;
let checking = 0;
let shownRoles = "";
let shownNotice = null;

export function mount(root, given) {
  api = given;
  setUp();
  for (const image of $.example.querySelectorAll("img")) image.addEventListener("error", () => show($.example, false));
  $.go.addEventListener("click", go);
  onArrive({
    zones: () => [...$.slots.children].map((slot) => [slot, slot.dataset.role]),
    curtain: $.curtain,
    accepts,
    onFiles: arrive,
    onWords: (title) => complain({ title }),
  });
}

function roles() {
  return api.state.processor?.roles ?? ROLES;
}

/** What a role is called: the first one is the person who is looking at this. */
function title(role) {
  if (role.name === roles()[0].name) return "You";
  return sentence(role.name);
}

/** "your photo", "the garment" */
function noun(role) {
  return role.name === roles()[0].name ? "your photo" : `the ${role.name.replaceAll("_", " ")}`;
}

/** "your photo", "the garment picture" */
function file(role) {
  return role.name === roles()[0].name ? "your photo" : `${noun(role)} picture`;
}

function capital(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// --- the slots ------------------------------------------------------------------------------------------------------

/** Makes the slots fit the roles; those that stand in the page are used first. */
function setUp() {
  const wanted = roles();
  const key = JSON.stringify(wanted);
  if (key === shownRoles) return;
  shownRoles = key;
  wanted.forEach((role, n) => {
    const slot = $.slots.children[n] ?? $.slots.appendChild(copied(n));
    slot.dataset.role = role.name;
    if (!slot.dataset.ready) wire(slot);
    const [input] = slot.getElementsByTagName("input");
    text(slot.querySelector(".zone-title"), title(role));
    const hint = role.hint.length > SHORT_HINT ? role.hint : "";
    const how = TOUCH ? "Tap to choose" : "Drop, paste or choose";
    text(slot.querySelector(".zone-text"), hint || (role.required ? how : `Optional. ${how}`));
    input.multiple = role.count > 1;
    samples(slot, role.name);
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
    api.say(`${capital(noun(roleOf(role())))} is removed.`);
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

function roleOf(name) {
  return roles().find((role) => role.name === name) ?? roles()[0];
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
  button.addEventListener("click", async () => {
    const { takePhoto } = await import("./camera.js");
    const file = await takePhoto(noun(roleOf(role()))).catch((error) => complain({ title: error.message }));
    if (file) arrive([file], role());
  });
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
      const blob = await fetch(src).then((answer) => (answer.ok ? answer.blob() : null), () => null);
      if (blob) arrive([new File([blob], `${sample}.webp`, { type: "image/webp" })], name);
    });
    tools.append(button);
  });
}

// --- what comes in --------------------------------------------------------------------------------------------------

function accepts() {
  const { phase, session, shared } = api.state;
  return !shared && phase !== "uploading" && !(phase === "following" && !session?.terminal);
}

/** Takes pictures for a role; without one, for the empty slots in their order, then for the last one. */
async function arrive(files, name = null) {
  if (!accepts() || files.length === 0) return;
  if (api.state.phase !== "idle") {
    if (api.state.session) keep(api.state.session);
    api.act.leave();
  }
  const free = name ? [name] : roles().map((role) => role.name).filter((each) => !api.state.slots.has(each));
  const targets = free.length > 0 ? free : [roles().at(-1).name];
  const taken = files.slice(0, targets.length);
  for (const [n, file] of taken.entries()) await fill(targets[n], file);
  if (files.length > taken.length) api.say(`One picture for each place: “${taken.at(-1).name}” was taken.`);
}

/** Judges the picture and puts it into its slot; a picture that cannot be sent is shown with what to do. */
async function fill(name, chosen, { sure = false } = {}) {
  const role = roleOf(name);
  checking += 1;
  render(api);
  api.load();
  let found;
  try {
    const { examine, limitsOf } = await import("./check.js");
    found = await examine(chosen, file(role), limitsOf(role, api.state.limits));
  } catch {
    found = { width: null, height: null, shown: true, problem: null }; // the server judges it
  } finally {
    checking -= 1;
  }
  const { width, height, shown, problem } = found;
  if (problem && !(sure && problem.doubt)) {
    await refuse(role, chosen, problem);
    return;
  }
  empty(name);
  api.state.slots.set(name, { file: chosen, url: URL.createObjectURL(chosen), name: chosen.name, width, height, shown, from: null });
  const missing = lacking();
  api.say(`${capital(noun(role))} is added. ${missing ? `Now add ${noun(missing)}.` : "Ready."}`);
  api.set({ notice: null });
}

async function refuse(role, chosen, { title: what, text: why, shrink, doubt }) {
  const slot = [...$.slots.children].find((each) => each.dataset.role === role.name);
  const choose = { label: "Choose another", run: () => slot.querySelector("input").click() };
  const smaller = shrink ? await shrink() : null;
  const actions = [choose];
  if (doubt) actions.push({ label: "Send it anyway", run: () => fill(role.name, chosen, { sure: true }) });
  if (smaller) {
    const label = `${smaller.size < chosen.size ? "Shrink" : "Convert"}: ${kilobytes(chosen.size)} → ${kilobytes(smaller.size)}`;
    actions.unshift({ label, id: "shrink", run: () => fill(role.name, smaller) });
  }
  complain({ title: what, text: why, part: role.name, actions });
}

/** Says beside the slots why nothing was taken. */
function complain(notice) {
  if (api.state.phase !== "idle") api.act.leave(notice);
  else api.set({ notice });
}

export function empty(name) {
  const slot = api.state.slots.get(name);
  if (slot?.url?.startsWith("blob:")) URL.revokeObjectURL(slot.url);
  api.state.slots.delete(name);
}

/** Puts the pictures of a session into the slots: the server has them, so they are not sent again. */
export function keep(session) {
  for (const name of [...api.state.slots.keys()]) if (!session.inputs.some(({ role }) => role === name)) empty(name);
  for (const { role, index, link, width, height } of session.inputs) {
    if (index > 0) continue;
    const slot = api.state.slots.get(role);
    if (slot?.sentIn === session.session_id) slot.from = session;
    else {
      empty(role);
      api.state.slots.set(role, { file: null, url: link, name: role, width, height, shown: true, from: session });
    }
  }
}

/** Notes which session the slots' pictures are in. */
export function sent(session) {
  for (const slot of api.state.slots.values()) slot.sentIn = session.session_id;
}

/** An erased session has nothing any more; neither do the slots. */
export function forget() {
  for (const name of [...api.state.slots.keys()]) empty(name);
}

export function focus(name) {
  const slot = [...$.slots.children].find((each) => each.dataset.role === name);
  (slot?.querySelector("input") ?? $["choose-title"]).focus();
}

// --- the button -----------------------------------------------------------------------------------------------------

function lacking() {
  return roles().find(({ name, required }) => required && !api.state.slots.has(name)) ?? null;
}

function go() {
  const missing = lacking();
  if (checking > 0) return;
  if (missing) {
    api.say(`First add ${noun(missing)}.`);
    focus(missing.name);
  } else api.act.begin();
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
  if (state.limits?.retention_seconds) text($.promise, `Gone in ${span(state.limits.retention_seconds)}.`);
  const schema = state.processor?.params_schema?.properties ?? {};
  if (Object.keys(schema).length > 0 && !$.params.dataset.ready) {
    $.params.dataset.ready = "yes";
    import("./params.js").then(({ mount: form }) => form($.params, api));
  }
}

function renderSlot(element, { slots, notice }) {
  const role = roleOf(element.dataset.role);
  const slot = slots.get(role.name);
  element.classList.toggle("filled", Boolean(slot));
  element.classList.toggle("bad", notice?.part === role.name);
  const remove = element.querySelector(".remove");
  show(remove, Boolean(slot));
  attribute(remove, "aria-label", `Remove ${noun(role)}`);
  const image = element.querySelector(".zone-picture");
  const url = slot?.shown ? slot.url : null;
  show(image, url !== null);
  if (url && image.getAttribute("src") !== url) image.src = url;
  if (!url) image.removeAttribute("src");
  image.alt = url ? `Chosen: ${noun(role)}` : "";
  attribute(image, "aria-hidden", url ? null : "true");
  element.dataset.name = slot && !slot.shown ? slot.name : "";
}

/** "24 hours", "30 minutes" */
function span(seconds) {
  if (seconds >= 5400) return `${Math.round(seconds / 3600)} hours`;
  return seconds >= 90 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds)} seconds`;
}
