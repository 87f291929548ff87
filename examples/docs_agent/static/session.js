// A demo sign-in, and requests made with it. A token is asked for when there is none or it is about to end.

const MARGIN_MS = 15_000;

export class Session {
  #name;
  #token = null;
  #endsAt = 0;
  #asking = null;

  constructor(name) {
    this.#name = name;
    this.user = null;
  }

  async token() {
    if (this.#token !== null && Date.now() < this.#endsAt) return this.#token;
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  forget() {
    this.#token = null;
  }

  // Makes a request with a token; with a new one, once, if the first is refused.
  async with(request) {
    try {
      return await request(await this.token());
    } catch (error) {
      if (error.status !== 401) throw error;
      this.forget();
      return request(await this.token());
    }
  }

  async #ask() {
    const { token, user, expires_in: lifetime } = await post("/session", { user: this.#name });
    this.user = user;
    this.#token = token;
    this.#endsAt = Date.now() + Math.max(lifetime * 1000 - MARGIN_MS, (lifetime * 1000) / 2);
    return token;
  }
}

export class Refused extends Error {
  constructor(status, detail) {
    super(typeof detail === "string" ? detail : `The server answered ${status}.`);
    this.status = status;
    this.refused = status >= 400 && status < 500 && status !== 429;
  }
}

export async function post(path, body, token) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, said.detail);
  return said;
}
