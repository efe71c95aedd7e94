/** Failures in one form everywhere: a title, the cause with its fix, and the part that is meant. */

/**
 * Returns the failure on the screen as `{ title, text, part, fine, retryable }`, or null. `part`: the role of the picture that
 * is meant, if one is; `fine`: small print.
 */
export function trouble({ state }) {
  const { ending, session, phase, retryable, processor } = state;
  if (ending) {
    const said = words(ending, processor?.roles[0]?.name);
    return { ...said, part: partOf(said.part, processor?.roles), retryable: phase === "refused" && retryable };
  }
  return session?.status === "failed" ? failure(session) : null;
}

/** `photo`: the role of the photo. */
export function words({ refused, receipt, gone, ready }, photo = "person") {
  if (refused) return problemWords(refused, photo);
  return receipt ? receiptWords(receipt) : goneWords(gone, ready);
}

// --- refused uploads ------------------------------------------------------------------------------------------------

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
  over_quota: ["Your plan grants no more of this"],
  queue_full: ["Very busy right now", "Many people are waiting already. Please try again in a little while."],
  unavailable: ["Not available right now", "The service cannot take photos right now. Please try again in a little while."],
  storage_full: ["No room right now", "There is no room for your photo at the moment. Please try again later."],
  invalid_token: ["This browser is not recognised", "Reload the page and try again."],
};

/** A refusal with one of these limits is not about a short time; the last three are the fields of a plan. */
const LIMITS = {
  queue_share_per_owner: ["One moment, please", "Many of your photos are waiting already. You can go on when some are done."],
  queue_share_per_address: ["One moment, please", "Many photos from your network are waiting already. You can go on when some are done."],
  stored_bytes_per_owner: ["No room for more photos", "Delete some of your try\u2011ons, or wait until they are erased by themselves."],
  stored_bytes_per_address: ["No room for more photos", "Delete some of your try\u2011ons, or wait until others from your network are erased."],
  uploads_per_day: ["No more try\u2011ons today", "All try\u2011ons of today that your plan grants are used."],
  concurrent_sessions: ["One moment, please", "Your plan grants no more try\u2011ons at once. You can go on when one of yours has ended."],
  stored_bytes: ["No room for more photos", "Your plan grants no more. Delete some of your try\u2011ons, or wait until they are erased by themselves."],
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

/** For a refused upload: our own words, else the server's. */
function problemWords(problem, photo = "person") {
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

// --- sessions that are gone -----------------------------------------------------------------------------------------

const GONE = {
  deleted: ["This try\u2011on was deleted", "Nothing of it is left."],
  expired: ["This try\u2011on has expired", "Its time was up, and everything of it was erased."],
  invalid_ticket: ["This link has expired", "Ask for a new one, or make your own."],
  erased: ["This try\u2011on was erased", "Nothing of it is left."],
  not_found: ["There is nothing here", "The link is wrong, or the try-on has been erased."],
};

function goneWords(code, ready = false) {
  if (code === "expired" && ready) return { title: "This result has expired", text: "Its time was up: the result and your photo were erased." };
  const [title, text] = GONE[code] ?? GONE.not_found;
  return { title, text };
}

function receiptWords({ files, deleted_at }) {
  const what = files.length === 1 ? "One file was" : `${files.length} files were`;
  const time = new Date(deleted_at).toLocaleTimeString("en-GB");
  return { title: "Everything was erased", text: `${what} deleted at ${time}. This is the server’s signed receipt; the server keeps no copy.` };
}

// --- failed sessions ------------------------------------------------------------------------------------------------

/** Which picture a failed session's code is about. */
const PARTS = {
  person_not_found: "person",
  pose_not_supported: "person",
  garment_not_found: "garment",
};

const TITLES = {
  person_not_found: "No person was found",
  pose_not_supported: "This pose does not work",
  garment_not_found: "The garment was not found",
  unreadable_image: "A picture could not be read",
  moderated_input: "A picture was refused",
  moderated_output: "The result was refused",
  input_lost: "The picture got lost",
  backend_busy: "Very busy right now",
  backend_cold: "It was still starting up",
  backend_unreachable: "Not available right now",
  timeout: "It took too long",
  worker_lost: "It was interrupted too often",
};

/** `{ title, text, part, retryable }` of a failed session. `part`: a role, or null where no picture is to blame. */
function failure(session) {
  const { code = "", message = "", retryable = true } = session.error ?? {};
  const named = (session.inputs ?? []).some(({ role }) => role === PARTS[code]);
  return { title: TITLES[code] ?? "That did not work out", text: message, part: named ? PARTS[code] : null, retryable };
}

/** The role of a refused part: `image` stands for the first one. */
function partOf(part, roles) {
  if (part === "image") return roles?.[0]?.name ?? "person";
  return part;
}
