// The service's HTTP API: questions with the key, where one was given, and the events that it sends.

const WAITS = [1000, 2000, 5000, 10000]; // milliseconds before the next try to connect

// A question without an answer: `status` 0 where nothing answered; `sentence` is the service's own.
export class Failure extends Error {
  constructor(status, sentence, retryAfter) {
    super(sentence || `status ${status}`);
    Object.assign(this, { status, sentence, retryAfter });
  }
}

let key = null; // kept in memory only: a tab that is closed forgets it

export function useKey(given) {
  key = given.trim();
}

const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

// The JSON answer to a GET, or with a body to a POST. Raises Failure.
export async function ask(path, body) {
  const posted = { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await answerOf(path, body === undefined ? { headers: headers() } : posted);
  return response.json();
}

async function answerOf(path, request) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...request });
  } catch (error) {
    throw new Failure(0, "", 0);
  }
  if (response.ok) return response;
  const content = await response.json().catch(() => ({}));
  const wait = Number(response.headers.get("Retry-After")) || 1;
  throw new Failure(response.status, typeof content.error === "string" ? content.error : "", wait);
}

// Hears the events of the service as long as the page lives, and connects again where the connection is lost. Not by
// EventSource, which cannot send a key.
export async function follow({ on, isLive, failed }) {
  for (let tries = 0; ; tries++) {
    try {
      const response = await answerOf("/events", { headers: { ...headers(), Accept: "text/event-stream" } });
      isLive(true);
      tries = 0;
      await hear(response.body, on);
    } catch (error) {
      if (error.status === 401) {
        failed(error);
        return;
      }
    }
    isLive(false);
    await new Promise(resolve => setTimeout(resolve, WAITS[Math.min(tries, WAITS.length - 1)]));
  }
}

async function hear(body, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map(line => line.split(/: ?(.*)/s)));
      if (!fields.event || !fields.data) continue; // a comment that keeps the connection alive
      try {
        on(fields.event, JSON.parse(fields.data));
      } catch (error) {
        reportError(error); // to the console: the next event is heard all the same
      }
    }
  }
}
