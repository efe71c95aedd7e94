/** Drives static/tryon.js by lines of JSON: a call in, its news and its outcome out. */

import { createInterface } from "node:readline";

const { TryOn } = await import(process.argv[2]);
const clients = new Map();
const stops = new Map();

const say = (id, news) => process.stdout.write(`${JSON.stringify({ id, ...news })}\n`);
const photo = (text) => new Blob([Buffer.from(text, "base64")]);
const photos = (given) =>
  Object.fromEntries(Object.entries(given ?? {}).map(([role, files]) => [role, [files].flat().map(photo)]));

function upload({ image, garment, inputs, ...options }) {
  const files = { image: image == null ? null : photo(image), garment: garment == null ? null : photo(garment) };
  return { ...options, ...files, inputs: photos(inputs) };
}

const CALLS = {
  upload: (tryon, { image, ...options }) => {
    const { image: file, ...rest } = upload({ image, ...options });
    return tryon.upload(file, rest);
  },
  read: (tryon, { session }) => tryon.read(session),
  history: (tryon, { session }) => tryon.history(session),
  list: (tryon, options) => tryon.list(options),
  cancel: (tryon, { session }) => tryon.cancel(session),
  retry: (tryon, { session }) => tryon.retry(session),
  share: (tryon, { session }) => tryon.share(session),
  remove: (tryon, { session }) => tryon.remove(session),
  limits: (tryon) => tryon.limits(),
  processor: (tryon) => tryon.processor(),
  follow: (tryon, { session, ...options }, id) => {
    const onEvent = ({ seq, event, status }) => say(id, { event: { seq, event, status } });
    const onConnection = (connection, transport) => transport && say(id, { transport });
    const following = tryon.follow(session, {
      ...options,
      onEvent,
      onConnection,
      onSession: (each) => say(id, { session: each }),
    });
    stops.set(id, () => following.close());
    return following.done;
  },
  run: async (tryon, options, id) => {
    const stop = new AbortController();
    stops.set(id, () => stop.abort());
    const run = tryon.run({ ...upload(options), signal: stop.signal });
    for await (const session of run) say(id, { session });
    return run;
  },
};

function clientOf({ base, token }) {
  const key = `${base} ${token}`;
  if (!clients.has(key)) clients.set(key, new TryOn({ base, token }));
  return clients.get(key);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, call, client, args } = JSON.parse(line);
  if (call === "stop") {
    stops.get(args.id)?.();
    continue;
  }
  Promise.resolve()
    .then(() => CALLS[call](clientOf(client), args, id))
    .then((result) => say(id, { result: result ?? null }))
    .catch(({ name, code, status, part, limit, retryable, message }) =>
      say(id, { problem: { name, code, status, part, limit, retryable, message } }),
    );
}
process.exit(0);
