// The front end of docs/plain-html.md, on an origin of its own: https://api.shop.example is where the API is.
import { TryOn } from "https://api.shop.example/static/tryon.js";

const tryon = new TryOn({ base: "https://api.shop.example" });
const form = document.getElementById("form");
const line = document.getElementById("line");
const bar = document.getElementById("bar");
const result = document.getElementById("result");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.go.disabled = true;
  result.hidden = true;
  bar.hidden = false;
  line.textContent = "Sending …";
  try {
    const run = tryon.run({ image: form.photo.files[0], garment: form.garment.files[0] });
    for await (const session of run) show(session);
  } catch (problem) {
    line.textContent = problem.detail || "The server could not be reached.";
  }
  form.go.disabled = false;
  bar.hidden = true;
});

function show({ status, stage, progress, queue_position, error, links }) {
  line.textContent = error?.message ?? stage ?? (queue_position ? `Place ${queue_position} in line` : status);
  if (progress === null) bar.removeAttribute("value");
  else bar.value = progress;
  if (links.output) {
    result.src = links.output;
    result.hidden = false;
  }
}
