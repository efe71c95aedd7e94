/** The chip in the corner: how this page hears of changes. `state.shownConnection` wins over what the client reports. */

import { $, attribute, show, text } from "./dom.js";
import { CONNECTIONS } from "./words.js";

export function shown({ connection, shownConnection, online, session }) {
  if (session?.terminal || connection === "finished") return "finished";
  if (!online) return "offline"; // the browser knows at once
  return shownConnection ?? connection;
}

export function render({ state }) {
  const connection = state.phase === "following" ? shown(state) : null;
  show($.chip, connection !== null);
  if (connection === null) return;
  const [word, hint] = CONNECTIONS[connection];
  attribute($.chip, "data-connection", connection);
  attribute($.chip, "title", hint);
  text($["chip-text"], word);
}
