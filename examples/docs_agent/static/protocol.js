// The decisions of the client protocol, without a socket: what a close code asks for, when to try again, what was seen.

export const SUBPROTOCOL = "unified-websocket.v1";
export const SEEN_IDS = 8192;
export const GRACE_SECONDS = 20; // beyond the server's heartbeat; then a silent connection is dead

// next: stop; resume (try again, with jitter, from the cursor); new_token (fetch one, once, else stop); refresh (fetch
// one, then resume). The same table as the server's, in docs/reference.
const RULES = new Map([
  [1000, { next: "stop", why: "The server ended this connection." }],
  [1003, { next: "stop", why: "A frame from this page was not text." }],
  [1006, { next: "resume", why: "The connection broke." }],
  [1009, { next: "stop", why: "A frame from this page was too big." }],
  [1011, { next: "resume", why: "The server met an error." }],
  [1012, { next: "resume", why: "The server is restarting." }],
  [1013, { next: "resume", slowly: true, why: "The server is overloaded." }],
  [4400, { next: "stop", why: "The server could not read what this page sent." }],
  [4401, { next: "new_token", why: "The server does not know this sign-in." }],
  [4403, { next: "stop", why: "This is not allowed." }],
  [4408, { next: "resume", why: "The connection went silent." }],
  [4409, { next: "stop", why: "A newer connection of this user took its place." }],
  [4410, { next: "stop", forgetCursor: true, why: "This sign-in was revoked." }],
  [4419, { next: "refresh", why: "The sign-in expired." }],
  [4429, { next: "resume", slowly: true, why: "Too many requests." }],
]);

export function ruleFor(code) {
  const rule = RULES.get(code);
  if (rule) return rule;
  const ours = code >= 4400 && code < 4500; // a refusal that this page is too old to know
  return { next: ours ? "stop" : "resume", why: `The connection was closed with code ${code}.` };
}

// Full jitter, in milliseconds: anywhere between nothing and a bound that doubles.
export function delay(attempt, { slowly = false, random = Math.random } = {}) {
  const first = slowly ? 4000 : 500;
  return random() * Math.min(slowly ? 30000 : 20000, first * 2 ** Math.min(attempt, 10));
}

// The most recent ids, so that an event that comes twice is shown once.
export class Seen {
  #ids = new Set();

  isNew(id) {
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > SEEN_IDS) this.#ids.delete(this.#ids.values().next().value);
    return true;
  }
}

// A cursor is opaque: its two ends are enough to see it move.
export function shortCursor(cursor) {
  return cursor.length > 16 ? `${cursor.slice(0, 7)}…${cursor.slice(-6)}` : cursor;
}
