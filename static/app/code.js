/** The session on the screen from other programs: lines for curl, JavaScript and Python, ready to be copied. */

import { make, show, text } from "./dom.js";

const MASK = "•".repeat(12);

/**
 * The lines by language. `token` is the owner's; `ticket` that of a session made elsewhere, which may only be looked at. `base` is
 * the server's address.
 */
export function snippets({ base, session, token = null, ticket = null }) {
  const { session_id: id, status, links = {} } = session;
  const api = `${base}/api/tryon/sessions/${id}`;
  const query = ticket ? `?ticket=${ticket}` : "";
  const header = ticket ? "" : ` -H "Authorization: Bearer $TOKEN"`;
  const options = ticket ? `, { ticket: "${ticket}", ` : ", { ";
  const output = status === "completed" ? new URL(links.output, base).href : null;
  const shell = [
    ...(ticket ? [] : [`TOKEN='${token}'`, ""]),
    "# every change, as it happens",
    `curl -N '${api}/events${query}'${header}`,
    "",
    "# as it is now",
    `curl '${api}${query}'${header}`,
    ...(output ? ["", "# the result; this link lasts a few minutes", `curl -o result${extension(output)} '${output}'`] : []),
  ];
  const script = [
    "// in the console of this page; in a program of yours, import it from the npm package tryon-push",
    `const { TryOn } = await import("${base}/static/tryon.js");`,
    "",
    `const tryon = new TryOn({ base: "${base}"${ticket ? "" : `, token: "${token}"`} });`,
    `const following = tryon.follow("${id}"${options}onSession: ({ status, progress }) => console.log(status, progress) });`,
    "const session = await following.done;",
    "console.log(session.links.output);",
  ];
  const python = [
    "# with the Python client: docs/python-client.md",
    "from pathlib import Path",
    "from tryon import TryOn",
    "",
    `with TryOn("${base}"${ticket ? "" : `, token="${token}"`}) as tryon:`,
    `    for update in tryon.follow("${id}"${ticket ? `, ticket="${ticket}"` : ""}):`,
    "        print(update.status, update.progress)",
    ...(ticket ? [] : [`    if update.status == "completed":`, `        Path("result${extension(output ?? "") || ".jpg"}").write_bytes(tryon.result("${id}"))`]),
  ];
  return { curl: lines(shell), JavaScript: lines(script), Python: lines(python) };
}

function lines(all) {
  return `${all.join("\n")}\n`;
}

function extension(link) {
  return /\.[a-z0-9]{2,5}$/.exec(link.split("?")[0])?.[0] ?? "";
}

/** Fills `root`. `render()` brings it up to date with the session. */
export function mount(root, api) {
  const note = make("p", { className: "code-note" });
  const reveal = make("button", { type: "button", className: "button behind-switch", role: "switch", "aria-checked": "false", textContent: "Show my token" });
  const blocks = make("div", {});
  const parts = Object.fromEntries(["curl", "JavaScript", "Python"].map((name) => [name, block(name, api)]));
  blocks.append(...Object.values(parts).map(({ section }) => section));
  root.append(note, reveal, blocks);
  let shown = null;

  reveal.addEventListener("click", () => {
    reveal.setAttribute("aria-checked", String(reveal.getAttribute("aria-checked") !== "true"));
    shown = null;
    render();
  });

  function render() {
    const { session, shared } = api.state;
    const ticket = shared ? new URLSearchParams(location.hash.slice(1)).get("ticket") : null;
    const open = reveal.getAttribute("aria-checked") === "true";
    const key = JSON.stringify([session?.session_id, session?.status, session?.links?.output, ticket, open]);
    if (key === shown) return;
    shown = key;
    show(blocks, Boolean(session));
    show(reveal, Boolean(session) && !shared);
    text(note, words(session, shared));
    if (!session) {
      for (const part of Object.values(parts)) text(part.code, (part.whole = ""));
      return;
    }
    const base = api.tryon.base || location.origin;
    const whole = snippets({ base, session, token: shared ? null : api.tryon.token, ticket });
    const seen = snippets({ base, session, token: shared ? null : open ? api.tryon.token : MASK, ticket });
    for (const [name, part] of Object.entries(parts)) {
      text(part.code, seen[name]);
      part.whole = whole[name];
    }
  }

  render();
  return { render };
}

function words(session, shared) {
  if (!session) return "Start a try-on: the lines that follow it from your own program come here.";
  if (shared) return "The ticket in these lines shows this one try-on, for a few minutes.";
  return "What you copy holds your token. Anyone who has it can see and delete your try-ons.";
}

function block(name, api) {
  const id = `code-${name.toLowerCase()}`;
  const heading = make("h3", { textContent: name, id });
  const copy = make("button", { type: "button", className: "button code-copy", textContent: "Copy", "aria-label": `Copy the lines for ${name}` });
  const code = make("code", {});
  const pre = make("pre", { tabIndex: 0, role: "region", "aria-labelledby": id }, code);
  const part = { code, whole: "", section: make("section", { className: "code-block" }, make("div", { className: "code-top" }, heading, copy), pre) };
  copy.addEventListener("click", async () => {
    let done = "Copied";
    try {
      await navigator.clipboard.writeText(part.whole);
    } catch {
      done = "Not copied"; // no permission, or no secure page
    }
    text(copy, done);
    api.say(`${done}: ${name}`);
    setTimeout(() => text(copy, "Copy"), 2000);
  });
  return part;
}
