/** A window with the camera's picture, on devices whose file chooser has no camera. */

import { make } from "./dom.js";

let open = false; // one window at a time, also while the permission is asked for

/** Resolves to a JPEG, or to null if the window was closed or is open already. Rejects with words to show. */
export async function takePhoto(noun) {
  if (open) return null;
  open = true;
  return show(noun).finally(() => (open = false));
}

async function show(noun) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, height: { ideal: 1920 } } });
  } catch (error) {
    throw new Error(error.name === "NotFoundError" ? "No camera was found." : "The camera may not be used by this page.");
  }
  const video = make("video", { autoplay: true, muted: true, playsInline: true, srcObject: stream });
  const take = make("button", { value: "take", className: "button primary", disabled: true }, "Take the photo");
  const close = make("button", { value: "", className: "button" }, "Close");
  video.addEventListener("loadeddata", () => {
    take.disabled = false;
    take.focus();
  });
  const form = make("form", { method: "dialog" }, video, make("div", { className: "actions" }, close, take));
  const dialog = make("dialog", { className: "dialog camera", "aria-label": `Take ${noun}` }, form);
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const blob = dialog.returnValue === "take" ? await still(video) : null;
  for (const track of stream.getTracks()) track.stop();
  dialog.remove();
  return blob && new File([blob], "photo.jpg", { type: "image/jpeg" });
}

function still(video) {
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}
