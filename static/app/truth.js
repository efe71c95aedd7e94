/**
 * The words that the page may use about its connection.
 *
 * A connection that is only thought to live is not "Live": a device without a network says so at once, and a connection that
 * was silent for a while is asked; without an answer in three seconds it counts as lost, and is cut so that the client makes
 * a new one. Screen readers learn of a loss once, and of its end.
 */

const SILENT_MS = 5000; // of a connection, then it is asked
const DOUBT_MS = 1000; // without an answer, then the page no longer says Live
const SETTLE_MS = 1000; // a change that is undone within it is not announced
const TICK_MS = 1000;

const STANDING = new Set(["live", "polling"]);

const WORDS = {
  offline: "You are offline. The try-on goes on without you.",
  reconnecting: "Connection lost. Connecting again.",
  back: "Connected again.",
};

/**
 * Returns the chip's word: the client's, corrected by what the device and the last question tell. `answer`: "slow" while one
 * is late, "none" once it has not come in time.
 */
export function verdict({ connection, online, answer = "in time" }) {
  if (connection === "finished") return connection;
  if (!online) return "offline";
  if (connection === "offline") return "reconnecting"; // the network is back, the client on its way
  if (!STANDING.has(connection) || answer === "in time") return connection;
  return answer === "slow" ? "checking" : "reconnecting";
}

/** Announces that the connection was lost, and that it is back: each once, and not what passes within a second. */
export function lossAnnouncer(say, { later = setTimeout, never = clearTimeout } = {}) {
  let lost = false; // as announced
  let timer = null;
  return (connection) => {
    const now = connection === "offline" || connection === "reconnecting";
    if (connection === "checking") return; // may pass
    never(timer);
    if (connection === "finished" || connection === "connecting") {
      lost = false;
      return;
    }
    if (now === lost) return;
    timer = later(() => {
      lost = now;
      say(now ? WORDS[connection] : WORDS.back);
    }, SETTLE_MS);
  };
}

/**
 * Watches the connection of `api` and calls `onConnection` with each verdict. `wire` is that of wires.js. Returns
 * `{ verdict(), close() }`.
 */
export function watch(api, { wire, onConnection, now = () => performance.now(), page = globalThis }) {
  let heard = now();
  let asked = false;
  let answer = "in time";
  let last = null;
  const announce = lossAnnouncer(api.say);

  function judge() {
    const word = verdict({ connection: api.state.connection, online: page.navigator.onLine, answer });
    if (word === last) return;
    last = word;
    announce(word);
    onConnection(word);
  }

  function alive() {
    heard = now();
    answer = "in time";
    judge();
  }

  const stop = wire.on(({ way }) => way === "in" && alive());

  async function look() {
    judge();
    const { connection, session } = api.state;
    const following = STANDING.has(connection) && session && !session.terminal;
    const due = answer === "none" || now() - heard >= SILENT_MS;
    if (!following || !due || asked || page.document.visibilityState !== "visible") return;
    asked = true;
    const began = now();
    const doubt = setTimeout(() => {
      if (answer === "in time") answer = "slow";
      judge();
    }, DOUBT_MS);
    const came = await wire.ask();
    clearTimeout(doubt);
    asked = false;
    if (came !== null || heard > began) alive();
    else if (STANDING.has(api.state.connection)) {
      answer = "none";
      judge();
      wire.cut("no answer");
    }
  }

  const timer = setInterval(look, TICK_MS);
  for (const name of ["online", "offline"]) page.addEventListener(name, judge);
  api.on("connection", (connection, transport) => {
    wire.mark("connection", [connection, transport].filter(Boolean).join(", "), api.state.id);
    alive();
  });
  judge();
  return {
    verdict: () => last,
    close() {
      clearInterval(timer);
      stop();
      for (const name of ["online", "offline"]) page.removeEventListener(name, judge);
    },
  };
}
