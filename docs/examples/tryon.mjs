// Upload a photo and follow its session as Server-Sent Events, with nothing but Node 20 or newer:
//   node tryon.mjs http://127.0.0.1:8000 photo.jpg

import { openAsBlob } from "node:fs";

const [server, photo] = process.argv.slice(2);

const form = new FormData();
form.append("image", await openAsBlob(photo), "photo.jpg");
const answer = await fetch(new URL("/api/tryon/sessions", server), { method: "POST", body: form });
const session = await answer.json();
if (answer.status !== 201) throw new Error(`${answer.status} ${session.detail}`);

const events = await fetch(new URL(session.links.events, server));
let text = "";
for await (const piece of events.body.pipeThrough(new TextDecoderStream())) {
  const lines = (text + piece).split("\n");
  text = lines.pop();
  for (const line of lines) {
    if (line.startsWith("data: ")) console.log(line.slice("data: ".length));
  }
}
