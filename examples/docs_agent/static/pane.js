// One person's half of the page: their sign-in, their connection, their runs.

import { Connection } from "./connection.js";
import { brief, el } from "./dom.js";
import { RunView, unknown } from "./run.js";
import { shortCursor } from "./protocol.js";
import { Session, post } from "./session.js";

const RUNS_KEPT = 100;
const STATES = new Map([
  ["signed-out", "Signed out"],
  ["connecting", "Connecting"],
  ["live", "Live"],
  ["waiting", "Waiting to reconnect"],
  ["cut", "Cut"],
  ["stopped", "Stopped"],
]);
const GAPS = new Map([
  ["trimmed", "Some events had left the log before this page came back for them, so they are missing here."],
  ["diverged", "The log was rewritten since this page last read it. What it holds now is shown from here on."],
  ["new_epoch", "The server lost its memory of this log, most likely in a restart. Runs that were under way ended with it."],
]);

export class Pane {
  #root;
  #connection = null;
  #session = null;
  #runs = new Map();
  #events = 0;
  #foreign = 0;
  #resumes = 0;
  #gaps = 0;
  #waiting = null;
  #served = null;
  #spoken = 0;
  #changed;

  constructor(template, { side, user, examples, onChange }) {
    this.#root = template.content.cloneNode(true).firstElementChild;
    this.#root.classList.add(side);
    this.#root.setAttribute("data-testid", `pane-${side}`);
    this.#root.setAttribute("aria-labelledby", `${side}-title`);
    this.#changed = onChange;
    this.#find("h2").id = `${side}-title`;
    this.#find("h2").textContent = side === "left" ? "One user" : "Another user";
    this.#part("user").value = user;
    this.#form("sign-in", () => this.signIn(this.#part("user").value, { focus: true }));
    this.#form("ask", () => this.#ask(this.#part("question").value.trim()));
    this.#find(".examples").append(...examples.map((text) => el("button", { type: "button", class: "example", onclick: () => this.#ask(text) }, text)));
    this.#part("cut").addEventListener("click", () => this.#connection.cut());
    this.#part("restore").addEventListener("click", () => this.#connection.open());
    this.#part("kill").addEventListener("click", () => this.#kill());
    this.#part("sign-out").addEventListener("click", () => this.signOut());
  }

  get element() {
    return this.#root;
  }

  get user() {
    return this.#session?.user ?? null;
  }

  async signIn(name, { focus = false } = {}) {
    this.#trouble("");
    const session = new Session(name);
    try {
      await session.token();
    } catch (error) {
      this.#trouble(error.message);
      if (focus) this.#part("user").focus();
      return;
    }
    this.#session = session;
    this.#find("h2").textContent = session.user;
    this.#part("second-tab").textContent = `Open a second tab as ${session.user}`;
    this.#part("second-tab").href = `?${new URLSearchParams({ user: session.user })}`;
    this.#show({ signedIn: true });
    this.#count();
    if (focus) this.#part("question").focus();
    const address = new URL("/live/ws", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.#connection = new Connection(address.href, session.user, session, {
      state: (state, why) => this.#entered(state, why),
      connected: (frame, asked) => this.#connected(frame, asked),
      event: (event) => this.#event(event),
      gap: (frame) => this.#gap(frame),
      foreign: (frame) => this.#stranger(frame),
      notice: (text) => this.#trouble(text),
      cursor: (cursor) => this.#cursor(cursor),
      provisional: (event) => this.#provisional(event),
    });
    this.#connection.open();
    this.#changed();
  }

  signOut() {
    this.#connection.close();
    this.#connection = null;
    this.#session = null;
    this.#runs.clear();
    this.#events = this.#foreign = this.#resumes = this.#gaps = 0;
    this.#provisional(null);
    this.#find(".stream").replaceChildren();
    this.#find(".alerts").replaceChildren();
    this.#find("h2").textContent = "Nobody";
    this.#forgetWords();
    this.#cursor(null);
    this.#entered("signed-out", "");
    this.#show({ signedIn: false });
    this.#part("user").focus();
    this.#changed();
  }

  // What is hidden is still there for a screen reader, and for whoever signs in next.
  #forgetWords() {
    clearTimeout(this.#spoken);
    this.#part("question").value = "";
    for (const part of [this.#find(".spoken"), this.#part("ledger"), this.#part("second-tab")]) part.textContent = "";
    this.#part("second-tab").removeAttribute("href");
  }

  #show({ signedIn }) {
    this.#find(".sign-in").hidden = signedIn;
    for (const part of [".ask", ".switches", ".ledger", ".empty", ".pane-foot"]) this.#find(part).hidden = !signedIn;
  }

  async #ask(question) {
    this.#trouble("");
    if (question === "") {
      this.#part("question").focus();
      return;
    }
    try {
      await this.#session.with((token) => post("/runs", { question }, token));
      if (this.#part("question").value.trim() === question) this.#part("question").value = "";
      if (!this.#connection.isLive) this.#trouble("Asked. The run goes on without this page; restore the connection to see it.");
    } catch (error) {
      this.#trouble(error.message);
    }
  }

  async #stop(runId) {
    try {
      await this.#connection.command({ type: "cancel", run_id: runId });
      return true;
    } catch (error) {
      this.#trouble(error.message);
      return false;
    }
  }

  async #kill() {
    try {
      await this.#session.with((token) => post("/kill", { process: this.#served }, token));
    } catch (error) {
      this.#trouble(error.message);
    }
  }

  // Where several processes serve this page, each tells a connection which one it is on.
  #servedBy(name) {
    this.#served = name;
    this.#part("served-by").hidden = this.#part("kill").hidden = false;
    this.#part("served-by").querySelector("code").textContent = name;
  }

  #event(event) {
    if (event.type === "served_by") return this.#servedBy(event.data.process);
    this.#events += 1;
    this.#count();
    this.#find(".empty").hidden = true;
    if (event.run_id === undefined) {
      this.#place(el("li", { class: "loose" }, unknown(event.type, event.data)));
      return;
    }
    let run = this.#runs.get(event.run_id);
    if (run === undefined || (run.isOver && event.type === "agent_started")) {
      run = new RunView(event.run_id, { stop: () => this.#stop(event.run_id) });
      this.#runs.delete(event.run_id);
      this.#runs.set(event.run_id, run);
      this.#place(run.element);
      this.#forgetOldRuns();
    }
    const said = run.show(event);
    if (said) this.#say(said);
  }

  // Newest first. Most browsers keep what is being read in place when something is put above it.
  #place(item) {
    const stream = this.#find(".stream");
    stream.prepend(item);
    while (stream.childElementCount > 3 * RUNS_KEPT) stream.lastElementChild.remove();
  }

  #forgetOldRuns() {
    if (this.#runs.size <= RUNS_KEPT) return;
    const [id, run] = this.#runs.entries().next().value;
    run.element.remove();
    this.#runs.delete(id);
  }

  #gap({ reason }) {
    this.#gaps += 1;
    this.#count();
    if (reason === "new_epoch") for (const run of this.#runs.values()) run.lose();
    const text = GAPS.get(reason) ?? `Some events are missing here (${reason}).`;
    this.#place(el("li", { class: "notice", "data-testid": "gap-notice", "data-reason": reason }, el("strong", {}, "A gap. "), text));
    this.#say(`A gap. ${text}`);
  }

  // What waits for the log is told, and not taken in: it comes with its place in the log when that is back.
  #provisional(event) {
    if (event === null) {
      this.#waiting?.element.remove();
      this.#waiting = null;
      return;
    }
    if (this.#waiting === null) {
      const text = el("span");
      const element = el("li", { class: "notice", "data-testid": "provisional" }, el("strong", {}, "Not in the log yet. "), text);
      this.#waiting = { element, text, events: 0 };
      this.#place(element);
    }
    this.#waiting.events += 1;
    const count = times(this.#waiting.events, "event");
    this.#waiting.text.textContent = `${count} so far, the last one ${brief(event.type, 40)}. It all comes again when the log is back.`;
  }

  #stranger(frame) {
    this.#foreign += 1;
    this.#count();
    if (this.#foreign > 1) return;
    const what = `A frame that is not addressed to ${this.user} reached this pane. It is not shown here. Its id: ${frame.id ?? "none"}.`;
    this.#find(".alerts").append(el("p", { class: "foreign", "data-testid": "foreign-notice" }, el("strong", {}, "Isolation broken. "), what));
  }

  #connected({ resumed }, asked) {
    if (resumed) this.#resumes += 1;
    this.#count();
    if (asked === null) this.#say(`Live as ${this.user}`);
    else this.#say(resumed ? "Live again, from where it was cut" : "Live again, after a gap");
  }

  #entered(state, why) {
    const badge = this.#part("state");
    const label = STATES.get(state);
    badge.dataset.state = state;
    this.#root.dataset.connection = state;
    badge.textContent = label;
    badge.title = why;
    const stopped = state === "stopped" || state === "waiting";
    this.#trouble(why, { calm: state === "cut" });
    this.#switch("cut", state === "live" || state === "connecting", "restore");
    this.#switch("restore", state === "cut" || stopped, "cut");
  }

  // A button that goes out of use hands the keyboard's focus to the other one.
  #switch(name, enabled, other) {
    const button = this.#part(name);
    const hadFocus = !enabled && document.activeElement === button;
    button.disabled = !enabled;
    if (!hadFocus) return;
    this.#part(other).disabled = false;
    this.#part(other).focus();
  }

  #cursor(cursor) {
    const shown = this.#part("cursor");
    shown.textContent = cursor === null ? "none" : shortCursor(cursor);
    shown.title = cursor ?? "";
  }

  // What this pane was sent, so that isolation and resumption can be checked at a glance.
  #count() {
    const whose = this.#foreign > 0 ? `${this.#foreign} more not addressed to ${this.user}` : `every one addressed to ${this.user}`;
    const received = this.#events + this.#foreign === 0 ? "No events yet" : `${times(this.#events, "event")}, ${whose}`;
    const resumed = this.#resumes === 0 ? "Not resumed" : `Resumed ${times(this.#resumes, "time")}`;
    const history = this.#resumes + this.#gaps === 0 ? "" : ` ${resumed}, ${times(this.#gaps, "gap")}.`;
    this.#part("ledger").textContent = `${received}.${history}`;
  }

  #trouble(text, { calm = false } = {}) {
    this.#part("trouble").classList.toggle("calm", calm);
    this.#part("trouble").textContent = text;
  }

  // The last thing said in a burst is the one worth hearing.
  #say(text) {
    clearTimeout(this.#spoken);
    this.#spoken = setTimeout(() => {
      this.#find(".spoken").textContent = text;
    }, 300);
  }

  #form(name, submit) {
    this.#find(`.${name}`).addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
  }

  #part(testid) {
    return this.#root.querySelector(`[data-testid="${testid}"]`);
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }
}

function times(count, word) {
  return `${count === 0 ? "no" : count} ${word}${count === 1 ? "" : "s"}`;
}
