/** The page's words from the start: stages, times and sizes in plain words. */

/** Said when a module, a style or a sample is lost. */
export const NOT_LOADED = { title: "Part of this page could not be loaded", text: "Check your connection and try again." };

/** "JPEG, PNG or WebP"; "photo" where nothing is known. */
export function formatNames(types) {
  const all = types?.map((type) => (type === "image/webp" ? "WebP" : type.replace("image/", "").toUpperCase())) ?? ["photo"];
  return all.length > 1 ? `${all.slice(0, -1).join(", ")} or ${all.at(-1)}` : all[0];
}

const FAILURES = {
  cancel: "It could not be cancelled.",
  erase: "It could not be deleted.",
  download: "The result could not be saved.",
  share: "It could not be shared.",
  replay: "It could not be replayed.",
};

/** The words for a button whose call was refused or unanswered. */
export function failureWords(action, { code, status }) {
  if (code === "network") return `${FAILURES[action]} No answer came: check your connection and try again.`;
  if (status === 429 || status === 503) return `${FAILURES[action]} The service is busy: please try again in a little while.`;
  return `${FAILURES[action]} Please try again.`;
}

export const CONNECTIONS = {
  connecting: ["Connecting", "Opening the live connection"],
  live: ["Live", "Every change is pushed to this page as it happens"],
  polling: ["Polling", "No live connection is free for this page; it asks again every few seconds"],
  reconnecting: ["Reconnecting", "The live connection was lost; it will be back in a moment"],
  checking: ["Checking", "Nothing was heard for a while; asking whether the connection still stands"],
  offline: ["Offline", "This device has no network; the try-on goes on without it"],
  finished: ["Finished", "Nothing more will change"],
};

/** The headline of a session as it is now. */
export function sessionHeadline(session) {
  switch (session.status) {
    case "created":
      if (session.attempt > 0) return "Interrupted, starting again";
      if (session.queue_position === 1) return "Next in line";
      return session.queue_position > 1 ? `${ordinal(session.queue_position)} in line` : "Waiting for its turn";
    case "processing":
      return session.stage ? sentence(session.stage) : "Working on it";
    case "completed":
      return "Your result is ready";
    case "failed":
      return "That did not work out";
    case "cancelled":
      return "Cancelled";
    default:
      return sentence(session.status);
  }
}

export function sentence(text) {
  const words = String(text).replaceAll("_", " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** "1st", "2nd", "3rd", "11th" */
export function ordinal(number) {
  const ending = { 1: "st", 2: "nd", 3: "rd" }[number % 10] ?? "th";
  return `${number}${[11, 12, 13].includes(number % 100) ? "th" : ending}`;
}

/** "10–14 s", "2–3 min": from the time to the end if every place is free now, to one run more. */
export function range(seconds, run) {
  const [least, most] = [Math.max(1, Math.floor(seconds)), Math.max(2, Math.ceil(seconds + run))];
  if (most < 100) return `${least}–${most} s`;
  const [low, high] = [Math.max(1, Math.floor(least / 60)), Math.ceil(most / 60)];
  return low === high ? `${low} min` : `${low}–${high} min`;
}

const NEARLY = 0.85; // progress from which the end is near

/** "about 6 s left". An estimate that has run out says nothing, unless the progress agrees that the end is near. */
export function remaining(seconds, progress) {
  if (seconds >= 1) return `about ${duration(Math.ceil(seconds) * 1000).replace(".0", "")} left`;
  return progress == null || progress >= NEARLY ? "almost there" : "";
}

/** A worker was lost; the next attempt follows. */
export function interruptedWords({ attempt, status }, limits) {
  const number = status === "created" ? attempt + 1 : attempt;
  const most = limits?.max_attempts;
  return most ? `Interrupted, starting again (${Math.min(number, most)} of ${most})` : "Interrupted, starting again";
}

/** "29 ms", "0.4 s", "12 s", "3 min 5 s" */
export function duration(milliseconds) {
  if (milliseconds > 0 && milliseconds < 100) return `${Math.round(milliseconds)} ms`;
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** "in 7 days", "in 23 hours 59 minutes", "in 12 minutes", "in 4 minutes 20 seconds", "in 9 seconds" */
export function fromNow(milliseconds) {
  const seconds = Math.max(1, Math.round(milliseconds / 1000));
  const minutes = Math.round(seconds / 60);
  const hours = Math.round(minutes / 60);
  const said = (large, per, unit, small) => {
    const count = (n, name) => (n ? `${n} ${name}${n === 1 ? "" : "s"}` : "");
    return `in ${[count(Math.floor(large / per), unit), count(large % per, small)].filter(Boolean).join(" ")}`;
  };
  if (hours >= 48) return said(hours, 24, "day", "hour");
  return seconds >= 600 ? said(minutes, 60, "hour", "minute") : said(seconds, 60, "minute", "second");
}

/** "48 kB", "1.2 MB" */
export function kilobytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1).replace(".0", "")} MB`;
}

/** "today at 17:05", "tomorrow at 09:00", "on 3 December at 09:00"; `now` in ms. */
export function moment(date, now) {
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const days = Math.round((new Date(date).setHours(0, 0, 0, 0) - new Date(now).setHours(0, 0, 0, 0)) / 86400000);
  if (days === 0) return `today at ${time}`;
  if (days === 1) return `tomorrow at ${time}`;
  return `on ${date.toLocaleDateString("en-GB", { day: "numeric", month: "long" })} at ${time}`;
}
