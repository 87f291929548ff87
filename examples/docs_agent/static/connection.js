// One user's live connection: authenticates in the first frame, keeps the cursor, and comes back with it.
//
// States: connecting, live, waiting (to try again), cut (by the person), stopped (by the server), closed (for good).

import { GRACE_SECONDS, SUBPROTOCOL, Seen, delay, ruleFor } from "./protocol.js";

const CONNECT_SECONDS = 15;
const SETTLED_MS = 5000; // a connection that lived this long starts the back-off anew

export class Connection {
  #url;
  #user;
  #session;
  #hears;
  #socket = null;
  #life = 0; // names the current attempt; whatever belongs to an earlier one is ignored
  #state = "closed";
  #cursor = null;
  #heartbeat = 25;
  #attempt = 0;
  #connectedAt = 0;
  #triedNewToken = false;
  #retry = 0;
  #silence = 0;
  #seen = new Seen();
  #requests = new Map();
  #requestCount = 0;

  // session: { token() -> Promise<string>, forget() }; token() rejects with an Error, `refused` set if asking again is useless.
  // hears: { state(state, why), connected(frame, asked), event(event), gap(frame), foreign(frame), notice(text),
  // cursor(text), provisional(event) } where an event waits for a log that is away, and null means: forget them all
  constructor(url, user, session, hears) {
    this.#url = url;
    this.#user = user;
    this.#session = session;
    this.#hears = hears;
    addEventListener("online", this.#online);
  }

  get isLive() {
    return this.#state === "live";
  }

  open() {
    this.#attempt = 0;
    this.#triedNewToken = false;
    this.#connect();
  }

  cut() {
    this.#drop();
    this.#enter("cut", "You cut it. What happens meanwhile waits in the log.");
  }

  close() {
    this.#drop();
    removeEventListener("online", this.#online);
    this.#state = "closed";
  }

  // Resolves with the acknowledgement's result; rejects when the server refuses or the connection goes.
  command(frame) {
    if (!this.isLive) return Promise.reject(new Error("There is no connection to send this on. Restore it first."));
    const id = `c${++this.#requestCount}`;
    return new Promise((resolve, reject) => {
      this.#requests.set(id, { resolve, reject });
      this.#send({ ...frame, request_id: id });
    });
  }

  #online = () => {
    if (this.#state === "waiting") this.#connect();
  };

  async #connect() {
    const life = this.#drop();
    this.#enter("connecting", "");
    let token;
    try {
      token = await this.#session.token();
    } catch (error) {
      if (life !== this.#life) return;
      if (error.refused) this.#enter("stopped", error.message);
      else this.#again("The sign-in service does not answer.");
      return;
    }
    if (life !== this.#life) return;

    const asked = this.#cursor;
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#watch(CONNECT_SECONDS);
    socket.onopen = () => {
      if (life === this.#life) this.#send({ type: "auth", token, ...(asked === null ? {} : { cursors: { "": asked } }) });
    };
    socket.onmessage = (message) => {
      if (life === this.#life) this.#receive(message.data, asked);
    };
    socket.onclose = (closing) => {
      if (life === this.#life) this.#closed(closing.code);
    };
  }

  // Leaves the current socket and every timer behind, and begins a new life.
  #drop() {
    clearTimeout(this.#retry);
    clearTimeout(this.#silence);
    if (this.#socket) leave(this.#socket);
    this.#socket = null;
    for (const { reject } of this.#requests.values()) reject(new Error("The connection went before the answer came."));
    this.#requests.clear();
    return ++this.#life;
  }

  #enter(state, why) {
    this.#state = state;
    this.#hears.state(state, why);
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #watch(limit) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#closed(4408), limit * 1000);
  }

  #closed(code) {
    const settled = this.#state === "live" && performance.now() - this.#connectedAt > SETTLED_MS;
    if (settled) this.#attempt = 0;
    const { next, why, slowly, forgetCursor } = ruleFor(code);
    this.#drop();
    if (forgetCursor) this.#moveTo(null);
    if (next !== "resume") this.#session.forget();
    if (next === "resume") this.#again(why, slowly);
    else if (next === "refresh" && this.#attempt > 0) this.#again(why);
    else if (next === "refresh") {
      this.#attempt += 1;
      this.#connect();
    } else if (next === "new_token" && !this.#triedNewToken) {
      this.#triedNewToken = true;
      this.#connect();
    } else this.#enter("stopped", why);
  }

  #again(why, slowly = false) {
    const wait = delay(this.#attempt++, { slowly });
    this.#enter("waiting", `${why} Trying again in ${(wait / 1000).toFixed(1)} s.`);
    this.#retry = setTimeout(() => this.#connect(), wait);
  }

  #receive(text, asked) {
    this.#watch(this.#heartbeat + GRACE_SECONDS);
    const life = this.#life;
    for (const line of String(text).split("\n")) {
      if (life !== this.#life) return; // an earlier line ended this connection
      if (line === "") continue;
      let frame;
      try {
        frame = JSON.parse(line);
      } catch {
        this.#hears.notice("A frame from the server could not be read.");
        continue;
      }
      this.#take(frame, asked);
    }
  }

  #take(frame, asked) {
    switch (frame.type) {
      case "connected":
        return this.#connected(frame, asked);
      case "ping":
        this.#moveTo(frame.cursor);
        return this.#send({ type: "pong", cursor: this.#cursor ?? undefined });
      case "gap":
        this.#hears.gap(frame);
        return this.#moveTo(frame.cursor);
      case "ack":
        return this.#answer(frame.request_id, ({ resolve }) => resolve(frame.result));
      case "error":
        if (this.#answer(frame.request_id, ({ reject }) => reject(new Error(frame.message)))) return undefined;
        return this.#hears.notice(`The server says: ${frame.message}`);
      case "degraded":
        return this.#hears.notice("The log is away. Events wait at the server until it is back.");
      case "provisional":
        if (frame.event.user_id !== this.#user) return this.#hears.foreign(frame.event);
        return this.#hears.provisional(frame.event);
      case "restored":
        this.#hears.provisional(null);
        return this.#hears.notice("");
      case "pong":
      case "subscribed":
      case "unsubscribed":
        return undefined;
      default:
        return this.#event(frame);
    }
  }

  #connected(frame, asked) {
    if (frame.user_id !== this.#user) {
      this.#drop();
      this.#hears.foreign(frame);
      return this.#enter("stopped", "The server took this connection for somebody else’s.");
    }
    this.#heartbeat = frame.heartbeat;
    this.#watch(this.#heartbeat + GRACE_SECONDS);
    this.#connectedAt = performance.now();
    this.#triedNewToken = false;
    this.#moveTo(frame.cursor);
    this.#hears.provisional(null);
    this.#enter("live", "");
    return this.#hears.connected(frame, asked);
  }

  #event(event) {
    if (event.user_id !== this.#user) return this.#hears.foreign(event);
    if (this.#seen.isNew(event.id)) {
      try {
        this.#hears.event(event);
      } catch (error) {
        reportError(error); // one event that cannot be shown must not hold up those behind it
      }
    }
    return this.#moveTo(event.cursor);
  }

  // Only after what the cursor stands for was shown, so that a cut in between shows it again rather than never.
  #moveTo(cursor) {
    if (cursor === undefined || cursor === this.#cursor) return;
    this.#cursor = cursor;
    this.#hears.cursor(cursor);
  }

  #answer(id, settle) {
    const request = this.#requests.get(id);
    if (request === undefined) return false;
    this.#requests.delete(id);
    settle(request);
    return true;
  }
}

function leave(socket) {
  socket.onmessage = null;
  socket.onclose = null;
  // Closed before it is open, a socket makes the browser log an error.
  if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
  else socket.close();
}
