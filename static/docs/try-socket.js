/**
 * A WebSocket that can be tried: follow a session, or start one, and see each frame as it comes. The address and the
 * messages are those of asyncapi.json.
 */

import { randomText } from "../tryon.js";

const SUBPROTOCOL = "tryon.v1";
const BEARER = "tryon.bearer.";
const TOKEN = /^[A-Za-z0-9_-]{22,128}$/;
const SESSIONS = "/api/tryon/sessions";
const KEPT = 200; // frames on the page

/** A picture that is drawn here, so that a session can be started without a photo. */
function picture() {
  const canvas = document.createElement("canvas");
  canvas.width = 480;
  canvas.height = 640;
  const brush = canvas.getContext("2d");
  const ground = brush.createLinearGradient(0, 0, 0, 640);
  ground.addColorStop(0, "#dfe8e3");
  ground.addColorStop(1, "#9db8ab");
  brush.fillStyle = ground;
  brush.fillRect(0, 0, 480, 640);
  brush.fillStyle = "#2c4a3e";
  brush.beginPath();
  brush.arc(240, 190, 80, 0, 2 * Math.PI);
  brush.fill();
  brush.fillRect(130, 300, 220, 340);
  return new Promise((made) => canvas.toBlob(made, "image/jpeg"));
}

async function startSession(token) {
  const processor = await (await fetch("/api/tryon/processor")).json();
  const form = new FormData();
  for (const role of processor.roles ?? [{ name: "image", required: true }])
    if (role.required) form.append(role.name, await picture(), "picture.jpg");
  const answer = await fetch(SESSIONS, { method: "POST", headers: { Authorization: `Bearer ${token}` }, body: form });
  const made = await answer.json();
  if (!answer.ok) throw new Error(made.detail);
  return made.session_id;
}

/**
 * Makes `root`, a form, work. Its fields: session, credential, since, message; its buttons: connect, start, send,
 * close. `status` says what goes on, `log` gets the frames.
 * @param {{root: HTMLFormElement, status: HTMLElement, log: HTMLElement, address: string}} parts
 */
export function trySocket({ root, status, log, address }) {
  /** @type {WebSocket | null} */
  let socket = null;
  const { session, credential, since, message, connect, start, send, close } = root.elements;

  function say(text) {
    status.textContent = text;
  }

  function show(side, text) {
    const item = document.createElement("li");
    const who = document.createElement("b");
    who.textContent = side === "sent" ? "You" : "Server";
    const body = document.createElement("pre");
    body.textContent = text;
    item.append(who, body);
    log.append(item);
    while (log.children.length > KEPT) log.firstElementChild.remove();
    log.scrollTop = log.scrollHeight;
  }

  function settle() {
    const open = socket?.readyState === WebSocket.OPEN;
    send.disabled = !open;
    close.disabled = !socket;
  }

  function follow() {
    socket?.close(1000);
    log.replaceChildren();
    const url = new URL(address.replace("{session_id}", encodeURIComponent(session.value.trim())), location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (since.value) url.searchParams.set("since", since.value);
    const given = credential.value.trim();
    const token = given && !given.includes(".");
    if (given && !token) url.searchParams.set("ticket", given);
    socket = null;
    settle();
    if (token && !TOKEN.test(given)) {
      say("That is no token: it has 22 to 128 letters, digits, dashes and underscores.");
      return;
    }
    const mine = (socket = new WebSocket(url, token ? [SUBPROTOCOL, BEARER + given] : [SUBPROTOCOL]));
    say("Connecting…");
    mine.onopen = () => {
      if (mine !== socket) return;
      say("Connected.");
      settle();
    };
    mine.onmessage = ({ data }) => {
      if (mine === socket) show("received", JSON.stringify(JSON.parse(data), null, 2));
    };
    mine.onclose = ({ code, reason }) => {
      if (mine !== socket) return;
      socket = null;
      say(`Closed: ${code}${reason ? `, ${reason}` : ""}.`);
      settle();
    };
    settle();
  }

  root.addEventListener("submit", (event) => {
    event.preventDefault();
    follow();
  });
  start.addEventListener("click", async () => {
    start.disabled = true;
    say("Starting a session…");
    try {
      if (!credential.value || credential.value.includes(".")) credential.value = randomText();
      session.value = await startSession(credential.value.trim());
      since.value = "0";
      follow();
    } catch (error) {
      say(`It could not be started: ${error.message}`);
    } finally {
      start.disabled = false;
    }
  });
  send.addEventListener("click", () => {
    socket.send(message.value);
    show("sent", message.value);
  });
  close.addEventListener("click", () => socket?.close(1000));
  settle();
}
