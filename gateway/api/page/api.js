// What is asked of the appliance, and how. The token is kept for this tab alone.

const KEPT_AS = "isthmus-token";
const PATIENCE = 5000; // milliseconds

/** An answer that is a problem: `status` is HTTP's, or 0 where nobody has answered. */
export class Problem extends Error {
  constructor(status, detail, retryAfter = 0) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let kept = null; // where a browser keeps nothing for pages, the token lives as long as this page

export function token() {
  try {
    return sessionStorage.getItem(KEPT_AS);
  } catch {
    return kept;
  }
}

export function keepToken(value) {
  kept = value;
  try {
    if (value === null) sessionStorage.removeItem(KEPT_AS);
    else sessionStorage.setItem(KEPT_AS, value);
  } catch {
    // Said above: it is kept in memory.
  }
}

async function asked(path, settings, signal) {
  const shown = token();
  const headers = { Accept: "application/json", ...settings.headers };
  if (shown !== null) headers.Authorization = `Bearer ${shown}`;
  let response;
  try {
    response = await fetch(path, { ...settings, headers, signal, cache: "no-store", redirect: "error" });
  } catch (error) {
    throw new Problem(0, error.name === "TimeoutError" ? "no answer in time" : "nobody answers");
  }
  if (!response.ok) {
    let detail = response.statusText;
    try {
      detail = (await response.json()).detail ?? detail;
    } catch {
      // Whatever answered is not an appliance; its status says enough.
    }
    throw new Problem(response.status, String(detail), Number(response.headers.get("Retry-After")) || 0);
  }
  return response;
}

/** Ask, and return the answer's JSON. Raises Problem. */
export async function ask(path, body = undefined) {
  const settings =
    body === undefined
      ? {}
      : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const response = await asked(path, settings, AbortSignal.timeout(PATIENCE));
  try {
    return await response.json();
  } catch {
    throw new Problem(0, "the answer broke off");
  }
}

/** Follow a stream of JSON lines until it ends. Raises Problem. */
export async function follow(path, take, signal) {
  const response = await asked(path, { headers: { Accept: "application/jsonl" } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.trim() !== "") take(JSON.parse(line));
      }
    }
  } catch (error) {
    throw new Problem(0, error.name === "SyntaxError" ? "the stream is not what it should be" : "the stream broke off");
  }
}
