/** The frame: the photo fills it, the result comes in the same place and size. */

import { $, make, show, text } from "./dom.js";

const TRIES = 3; // of a picture whose link may have expired
const NO_RESULT = { title: "The result could not be loaded", text: "It is still there. Check your connection and try again." };
const SHAPE = { least: 0.6, most: 1.6 }; // width by height

let api = null;
let noPreview = false; // the browser cannot show the file; the server's copy may do

export function mount(given) {
  api = given;
  for (const image of [$.photo, $.preview, $.garment, $.result]) {
    image.addEventListener("load", () => loaded(image));
    image.addEventListener("error", () => failed(image));
  }
}

export function clear() {
  noPreview = false;
  for (const image of [$.photo, $.preview, $.garment, $.result]) clearImage(image);
  moving(null);
  text($["photo-missing"], "");
}

export function render({ state }) {
  const { phase, session, slots } = state;
  const [first] = firstSlot(state) ?? [];
  const sent = phase === "uploading" || phase === "refused" || (session && slots.get(first)?.sentIn === session.session_id);
  const slot = sent ? slots.get(first) : null;
  const garment = sent ? slots.get("garment") : null;
  const completed = session?.status === "completed";
  // The frame stays, also before a session is known and once it is gone: nothing below it jumps.
  if (phase === "gone") {
    show($["photo-missing"], true);
    text($["photo-missing"], "Nothing is left here");
  }
  shape(slot ?? session?.inputs?.[0]);
  const mine = slot?.url && !noPreview ? slot.url : null;
  picture($.photo, mine ?? session?.links.input ?? null);
  picture($.garment, completed ? null : (garment?.url ?? session?.links.garment ?? null));
  picture($.preview, session?.status === "processing" ? (session.preview?.link ?? null) : null);
  const film = completed && session.outputs[0]?.type.startsWith("video/");
  picture($.result, completed && !film ? session.links.output : null);
  moving(film ? session.links.output : null);
  const working = phase === "uploading" || (phase === "following" && session && !session.terminal);
  $.frame.classList.toggle("working", Boolean(working));
}

function firstSlot({ processor, slots }) {
  const name = processor?.roles[0]?.name ?? "person";
  return slots.has(name) ? [name] : null;
}

/** Known before the picture is there, so that nothing jumps when it comes. */
function shape(size) {
  if (!size?.width || !size?.height) return;
  const wanted = Math.min(Math.max(size.width / size.height, SHAPE.least), SHAPE.most).toFixed(4);
  if ($.run.style.getPropertyValue("--shape") !== wanted) $.run.style.setProperty("--shape", wanted);
}

/** Shows a picture by a signed link or blob URL; a link whose path is shown already is left alone: only its signature is new. */
function picture(image, url) {
  if (!url) {
    if (image.dataset.path) clearImage(image);
    return;
  }
  const path = url.split("?")[0];
  if (image.dataset.path === path && image.dataset.stale !== "true") return;
  if (image.dataset.path !== path) image.dataset.tries = "0";
  image.dataset.path = path;
  image.dataset.stale = "false";
  image.src = url;
}

/** A result that moves. */
function moving(url) {
  let video = $.frame.querySelector("video");
  if (!url) {
    video?.remove();
    return;
  }
  if (video?.dataset.path === url.split("?")[0]) return;
  video ??= make("video", { className: "picture", controls: true, loop: true, muted: true, playsInline: true, autoplay: true });
  Object.assign(video, { src: url, ariaLabel: "The try-on result", onerror: noResult });
  video.dataset.path = url.split("?")[0];
  $.frame.append(video);
}

function clearImage(image) {
  image.hidden = true;
  image.classList.remove("ready");
  image.removeAttribute("src");
  for (const name of ["path", "stale", "tries"]) delete image.dataset[name];
  if (image === $.photo) $["photo-missing"].hidden = true;
}

function loaded(image) {
  image.hidden = false;
  requestAnimationFrame(() => image.classList.add("ready"));
  if (image === $.result && api.state.lost) api.set({ lost: null });
  if (image !== $.photo) return;
  $["photo-missing"].hidden = true;
  shape({ width: image.naturalWidth, height: image.naturalHeight });
}

async function failed(image) {
  image.hidden = true;
  const { path } = image.dataset;
  const tries = Number(image.dataset.tries);
  const local = path?.startsWith("blob:");
  if (image === $.photo) {
    $["photo-missing"].hidden = false;
    text($["photo-missing"], local ? "This browser cannot show your photo; the try\u2011on goes on" : "The photo could not be loaded");
    if (local) {
      noPreview = true;
      render(api);
    }
  }
  if (local || image === $.preview || !path) return;
  image.dataset.tries = tries + 1;
  if (tries < TRIES) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * tries));
    if (image.dataset.path !== path || (await reload(image))) return;
  }
  if (image === $.result && image.dataset.path === path) noResult();
}

/** Loads a picture by a fresh link. Resolves to whether there is one. */
async function reload(image) {
  image.dataset.stale = "true"; // the rendering that comes with the link sets it
  const fresh = await api.refreshLinks();
  if (!fresh) image.dataset.stale = "false";
  return fresh;
}

function noResult() {
  api.set({ lost: { ...NO_RESULT, again: resultAgain } });
}

async function resultAgain() {
  $.result.dataset.tries = "0";
  if (!(await reload($.result))) return noResult();
  moving(null); // made anew, with the fresh link
  api.set({ lost: null });
}
