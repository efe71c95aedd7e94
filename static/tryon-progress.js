/** fetch() with the upload's progress, which browsers tell about an XMLHttpRequest alone; tryon.js loads this when it is asked for. */
export function fetchWithProgress(url, { method, headers, body, signal }, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      const told = ["Retry-After", "X-Request-ID"].map((name) => [name, request.getResponseHeader(name)]);
      const { status } = request;
      resolve(new Response(request.response || null, { status, headers: told.filter(([, value]) => value !== null) }));
    };
    request.onerror = request.onabort = reject;
    signal?.throwIfAborted(); // while this module was loaded: no event comes any more
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}
