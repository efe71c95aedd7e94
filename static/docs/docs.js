/**
 * The documentation page: Swagger UI for openapi.json, and the socket, the close codes and the error codes, which it
 * doesn't know, from asyncapi.json and openapi.json. Everything comes from this server.
 */

/* global SwaggerUIBundle */

import { trySocket } from "./try-socket.js";

/** @param {string} tag @param {...(Node|string|null|Record<string, string>)} parts attributes first, if any */
function element(tag, ...parts) {
  const made = document.createElement(tag);
  for (const part of parts) {
    if (part === null) continue;
    if (typeof part === "string" || part instanceof Node) made.append(part);
    else for (const [name, value] of Object.entries(part)) made.setAttribute(name, value);
  }
  return made;
}

/** Text in which `backticks` are code. */
function words(text) {
  const span = element("span");
  text.split("`").forEach((piece, n) => span.append(n % 2 ? element("code", piece) : piece));
  return span;
}

function table(heads, rows) {
  const head = element("tr", ...heads.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map((cells) => element("tr", ...cells.map((cell) => element("td", cell))));
  const label = { class: "wide", tabindex: "0", role: "group", "aria-label": heads.filter(Boolean).join(", ") };
  return element("div", label, element("table", element("thead", head), element("tbody", ...body)));
}

/** A schema in a few words: `number or null`, `Status`, `array of EventFrame`. */
function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.allOf) return schema.allOf.map(typeOf).join(" and ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `array of ${typeOf(schema.items ?? {})}`;
  const range = [schema.minimum !== undefined && `>= ${schema.minimum}`, schema.maximum !== undefined && `<= ${schema.maximum}`];
  const more = [schema.format, ...range].filter(Boolean).join(", ");
  return (schema.type ?? "anything") + (more ? ` (${more})` : "");
}

function resolve(document, reference) {
  return reference.slice(2).split("/").reduce((at, name) => at[name], document);
}

function fields(schema) {
  const required = new Set(schema.required);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => [
    element("code", name),
    typeOf(field) + (required.has(name) ? "" : ", may be missing"),
    words(field.description ?? ""),
  ]);
  return table(["Field", "Type", ""], rows);
}

function message(document, name, body) {
  const schema = resolve(document, body.payload.$ref);
  return element(
    "details",
    { id: `frame-${name}` },
    element("summary", element("code", body.name), words(body.summary)),
    fields(schema),
    element("pre", { tabindex: "0" }, JSON.stringify(body.examples[0].payload, null, 2)),
  );
}

/** A field with its label above it. */
function labelled(text, field, hint = "") {
  return element("label", element("span", text), field, hint ? element("small", words(hint)) : null);
}

/** The form that follows a session over a WebSocket. */
function trial(spec) {
  const examples = spec.operations.say.messages.map(({ $ref }) => spec.components.messages[$ref.split("/").pop()]);
  const choice = element("select", { name: "message" });
  for (const { examples: [{ payload }] } of examples) choice.append(element("option", JSON.stringify(payload)));
  const root = element(
    "form",
    { id: "try-socket", autocomplete: "off" },
    element("button", { type: "button", name: "start", class: "main" }, "Start a session and follow it"),
    element("p", words("Or follow one that you have. A token comes as `client_token`, a ticket with `links.ws`.")),
    element(
      "div",
      { class: "fields" },
      labelled("Session", element("input", { name: "session", required: "", spellcheck: "false" })),
      labelled("Token or ticket", element("input", { name: "credential", spellcheck: "false" })),
      labelled("since", element("input", { name: "since", type: "number", min: "0", inputmode: "numeric" })),
      element("button", { name: "connect" }, "Connect"),
    ),
    element(
      "div",
      { class: "fields" },
      labelled("Message", choice),
      element("button", { type: "button", name: "send" }, "Send"),
      element("button", { type: "button", name: "close" }, "Close the socket"),
    ),
  );
  const status = element("p", { role: "status" });
  const log = element("ol", { id: "frames", class: "frames", "aria-label": "Frames", tabindex: "0" });
  trySocket({ root, status, log, address: spec.channels.session.address });
  return [root, status, log];
}

function socket(document) {
  const seen = new Set(); // both channels have most messages in common
  const sides = Object.values(document.operations).map((operation) => {
    const names = operation.messages.map((reference) => reference.$ref.split("/").pop()).filter((name) => !seen.has(name));
    for (const name of names) seen.add(name);
    const messages = names.map((name) => message(document, name, document.components.messages[name]));
    return element("div", element("h3", words(operation.summary)), ...messages);
  });
  const shared = Object.entries(document.components.schemas).filter(([name]) => !/Frame$|^Client/.test(name));
  return [
    element("h2", { id: "socket-title" }, "WebSocket, tryon.v1"),
    ...Object.values(document.channels).map(({ address, title }) => element("p", element("code", `GET ${address}`), ` ${title}`)),
    element("p", words(document.info.description)),
    element("h3", "Try it"),
    ...trial(document),
    ...sides,
    element("h3", "What frames are made of"),
    ...shared.map(([name, schema]) =>
      element(
        "details",
        { id: `schema-${name}` },
        element("summary", element("code", name), words(schema.description ?? "")),
        schema.enum ? element("p", words(schema.enum.map((value) => `\`${value}\``).join(", "))) : fields(schema),
      ),
    ),
  ];
}

function closeCodes(document) {
  const rows = document["x-close-codes"].map((row) => [
    element("code", String(row.code)),
    row.meaning,
    row.reconnect,
    words(row.reasons.map((reason) => `\`${reason}\``).join(", ")),
  ]);
  return [
    element("h2", { id: "close-codes-title" }, "Close codes"),
    element("p", "4000 to 4499 mean come back, 4500 to 4999 stop, also for codes you don't know."),
    table(["Code", "Meaning", "Come back?", "Reason in bye"], rows),
  ];
}

function errorCodes(document) {
  const rows = document["x-error-codes"].map((row) => [
    element("code", row.code),
    String(row.status),
    row.detail,
    row.retryable ? "yes" : "no",
    row.operations.join(", "),
  ]);
  const failures = document["x-failure-codes"].map((row) => [
    element("code", row.code),
    row.message,
    row.retryable ? "yes" : "no",
  ]);
  return [
    element("h2", { id: "error-codes-title" }, "Error codes"),
    element("p", words("`code` of a problem, and of an `error` frame.")),
    table(["Code", "Status", "Detail", "Retryable", "Operations"], rows),
    element("h3", "Of a failed session"),
    element("p", words("`error.code` of a session; a processor may have codes of its own.")),
    table(["Code", "Message", "Retryable"], failures),
  ];
}

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** Swagger UI has dark colours, but does not ask the system. */
function followColours() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", apply);
  apply();
}

/** Levels of Swagger UI's headings, which leave some out. */
const LEVELS = { ".opblock-tag, .models > h4": "2", ".opblock h4": "3", ".opblock h5": "4" };

/** Gives Swagger UI the names, levels and keyboard access that it leaves out; it draws again whenever something opens. */
function amend(root) {
  const set = (selector, attributes) => {
    for (const found of root.querySelectorAll(selector))
      for (const [name, value] of Object.entries(attributes)) if (!found.hasAttribute(name)) found.setAttribute(name, value);
  };
  const apply = () => {
    set("#operations", { "aria-label": "Operations" });
    set(".information-container section", { "aria-label": "About this API" });
    set(".scheme-container section", { "aria-label": "Access" });
    set("section.models", { "aria-label": "Schemas" });
    for (const [heads, level] of Object.entries(LEVELS)) set(heads, { "aria-level": level });
    set(".examples-select-element", { "aria-label": "Example" });
    set(".microlight", { tabindex: "0" });
  };
  new MutationObserver(apply).observe(root, { childList: true, subtree: true });
  apply();
}

async function show() {
  followColours();
  amend(document.querySelector("#http"));
  const [http, frames] = await Promise.all([get("/api/openapi.json"), get("/api/asyncapi.json")]);
  document.querySelector("#socket").append(...socket(frames));
  document.querySelector("#close-codes").append(...closeCodes(frames));
  document.querySelector("#error-codes").append(...errorCodes(http));
  await new Promise((done) => {
    SwaggerUIBundle({
      spec: http,
      domNode: document.querySelector("#http"),
      layout: "BaseLayout",
      presets: [SwaggerUIBundle.presets.apis],
      validatorUrl: null,
      docExpansion: "list",
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      onComplete: done,
    });
  });
  document.documentElement.dataset.ready = "";
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show().catch((error) => {
  const trouble = document.querySelector("#trouble");
  trouble.textContent = `The documentation could not be loaded (${error.message}).`;
  trouble.hidden = false;
});
