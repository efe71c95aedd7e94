/** What the page says: problems, stages and times in plain words. */

const PROBLEMS = {
  network: ["The upload did not get through", "Check your connection and try again."],
  body_too_large: ["That file is too large"],
  too_many_pixels: ["That photo has too many pixels"],
  image_too_large: ["That photo is too large"],
  image_too_small: ["That photo is too small"],
  not_multipart: ["The upload did not arrive in one piece"],
  bad_multipart: ["The upload did not arrive in one piece"],
  too_slow: ["The upload was too slow", "Try again where the connection is better."],
  unsupported_image: ["That is not a photo we can read"],
  missing_image: ["A photo is missing"],
  unknown_input: ["One of the pictures is not wanted here"],
  bad_params: ["The options do not fit"],
  unreadable_image: ["That photo is damaged"],
  rate_limited: ["One moment, please", "Too many photos in a short time. You can go on in a little while."],
  queue_full: ["Very busy right now", "Many people are waiting already. Please try again in a little while."],
  unavailable: ["Not available right now", "The service cannot take photos right now. Please try again in a little while."],
  storage_full: ["No room right now", "There is no room for your photo at the moment. Please try again later."],
  invalid_token: ["This browser is not recognised", "Reload the page and try again."],
};

/** A `rate_limited` with one of these limits is not about a short time. */
const LIMITS = {
  queue_share_per_owner: ["One moment, please", "Many of your photos are waiting already. You can go on when some are done."],
  queue_share_per_address: ["One moment, please", "Many photos from your network are waiting already. You can go on when some are done."],
  stored_bytes_per_owner: ["No room for more photos", "Delete some of your try\u2011ons, or wait until they are erased by themselves."],
  stored_bytes_per_address: ["No room for more photos", "Delete some of your try\u2011ons, or wait until others from your network are erased."],
};

/** The same refusals of a picture that is not the photo. */
const OF_PART = {
  image_too_large: "is too large",
  too_many_pixels: "has too many pixels",
  image_too_small: "is too small",
  unsupported_image: "is not one we can read",
  missing_image: "is missing",
  unreadable_image: "is damaged",
};

const BY_STATUS = { 413: "body_too_large", 415: "unsupported_image", 429: "rate_limited", 503: "unavailable", 507: "storage_full" };

/** `{ title, text, part, fine }` for a refused upload. Our own words, else the server's. `photo`: the role of the photo. */
export function problemWords(problem, photo = "person") {
  const { part } = problem;
  const other = part && part !== "image" && part !== photo && OF_PART[problem.code];
  const known = other ? [`The ${part.replaceAll("_", " ")} picture ${other}`] : LIMITS[problem.limit] ?? PROBLEMS[problem.code] ?? PROBLEMS[BY_STATUS[problem.status]] ?? [];
  return {
    title: known[0] ?? (problem.title || "That did not work"),
    text: known[1] ?? (problem.detail || "Something went wrong. Please try again."),
    part,
    fine: problem.status >= 500 && problem.requestId ? `Reference: ${problem.requestId}` : "",
  };
}

const FAILURES = {
  cancel: "It could not be cancelled.",
  erase: "It could not be deleted.",
  download: "The result could not be saved.",
  share: "It could not be shared.",
};

/** The words for a button whose call was refused or unanswered. */
export function failureWords(action, { code, status }) {
  if (code === "network") return `${FAILURES[action]} No answer came: check your connection and try again.`;
  if (status === 429 || status === 503) return `${FAILURES[action]} The service is busy: please try again in a little while.`;
  return `${FAILURES[action]} Please try again.`;
}

const GONE = {
  deleted: ["This try\u2011on was deleted", "Nothing of it is left."],
  expired: ["This try\u2011on has expired", "Its time was up, and everything of it was erased."],
  invalid_ticket: ["This link has expired", "Ask for a new one, or make your own."],
  erased: ["This try\u2011on was erased", "Nothing of it is left."],
  not_found: ["There is nothing here", "The link is wrong, or the try-on has been erased."],
};

/** `{ title, text }`; `ready`: there was a result. */
export function goneWords(code, ready = false) {
  if (code === "expired" && ready) return { title: "This result has expired", text: "Its time was up: the result and your photo were erased." };
  const [title, text] = GONE[code] ?? GONE.not_found;
  return { title, text };
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

/** "in 23 hours 59 minutes", "in 12 minutes", "in 4 minutes 20 seconds", "in 9 seconds" */
export function fromNow(milliseconds) {
  const seconds = Math.max(1, Math.round(milliseconds / 1000));
  const minutes = Math.round(seconds / 60);
  const count = (n, unit) => (n ? `${n} ${unit}${n === 1 ? "" : "s"}` : "");
  const parts =
    minutes >= 60
      ? [count(Math.floor(minutes / 60), "hour"), count(minutes % 60, "minute")]
      : seconds >= 600
        ? [count(minutes, "minute")]
        : [count(Math.floor(seconds / 60), "minute"), count(seconds % 60, "second")];
  return `in ${parts.filter(Boolean).join(" ")}`;
}

/** "48 kB", "1.2 MB" */
export function kilobytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1).replace(".0", "")} MB`;
}

/** `{ title, text }` for the files of a receipt. */
export function receiptWords({ files, deleted_at }) {
  const what = files.length === 1 ? "One file was" : `${files.length} files were`;
  const time = new Date(deleted_at).toLocaleTimeString("en-GB");
  return { title: "Everything was erased", text: `${what} deleted at ${time}. This is the server’s signed receipt; the server keeps no copy.` };
}

/** "today at 17:05", "tomorrow at 09:00", "on 3 December at 09:00"; `now` in ms. */
export function moment(date, now) {
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const days = Math.round((new Date(date).setHours(0, 0, 0, 0) - new Date(now).setHours(0, 0, 0, 0)) / 86400000);
  if (days === 0) return `today at ${time}`;
  if (days === 1) return `tomorrow at ${time}`;
  return `on ${date.toLocaleDateString("en-GB", { day: "numeric", month: "long" })} at ${time}`;
}
