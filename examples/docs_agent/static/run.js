// One run as a timeline. Built from its events alone, so that a late tab and a live one show the same.

import { brief, clock, el, pretty, seconds } from "./dom.js";
import { GrowingText } from "./growing.js";

const ENDS = new Map([
  ["success", "Done"],
  ["cancelled", "Stopped"],
  ["interrupted", "Interrupted"],
  ["error", "Failed"],
  ["lost", "Lost"],
]);
const TOOL_STATES = new Map([
  ["running", "running"],
  ["success", "done"],
  ["error", "failed"],
  ["cancelled", "cancelled"],
]);

export class RunView {
  #tools = new Map();
  #messages = new Map();
  #steps = el("ol", { class: "steps" });
  #title = el("h3", { dir: "auto", tabindex: "-1" });
  #state = el("span", { class: "run-state", "data-testid": "run-state" });
  #agent = el("span", { class: "agent" });
  #when = el("time");
  #stop;
  #end = el("p", { class: "end", hidden: true });
  #asked = false;

  constructor(runId, { stop }) {
    this.#stop = el("button", { type: "button", "data-testid": "stop", onclick: () => this.#stopped(stop) }, "Stop");
    this.article = el(
      "article",
      { class: "run", "data-testid": "run", "data-run-id": runId },
      el("header", {}, this.#title, this.#stop),
      el("p", { class: "meta" }, this.#state, this.#agent, this.#when, el("span", { title: runId }, `run ${brief(runId, 8)}`)),
      this.#steps,
      this.#end,
    );
    this.element = el("li", {}, this.article);
    this.#title.textContent = "A run";
    this.#setState("running", "Running");
  }

  get isOver() {
    return this.article.dataset.state !== "running";
  }

  get title() {
    return this.#title.textContent;
  }

  // Shows one event. Returns what is worth saying aloud, or nothing.
  show({ type, data, timestamp }) {
    if (!this.#when.textContent) {
      this.#when.setAttribute("datetime", timestamp);
      this.#when.textContent = clock(timestamp);
    }
    switch (type) {
      case "question_asked":
        this.#asked = true;
        this.#title.textContent = brief(data.question, 400);
        this.#stop.setAttribute("aria-label", `Stop: ${brief(data.question, 60)}`);
        return `Asked: ${this.title}`;
      case "agent_started":
        return this.#started(data);
      case "agent_thinking":
        this.#step("thinking", el("p", { "data-testid": "thinking", dir: "auto" }, brief(data.thought, 2000)));
        return undefined;
      case "tool_executing":
        this.#toolFor(data);
        return undefined;
      case "tool_progress":
        return this.#toolFor(data).progress(data);
      case "tool_completed":
        return this.#toolFor(data).complete(data);
      case "message_delta":
        this.#message(data.message_id).add(data.start, data.text);
        return undefined;
      case "agent_completed":
        return this.#completed(data);
      case "agent_error":
        return this.#failed(data);
      case "events_dropped":
        this.#step("notice", el("p", {}, `${data.count} events of this run did not fit while the log was away.`));
        return undefined;
      default:
        this.#step("other", unknown(type, data));
        return undefined;
    }
  }

  // The log that this run was in is gone, and its end with it.
  lose() {
    if (!this.isOver) this.#finish("lost", "The server forgot this run, most likely because it restarted.");
  }

  #started(data) {
    this.#agent.textContent = brief(data.agent, 60);
    if (!this.#asked) this.#title.textContent = `A run of ${brief(data.agent, 60)}`;
    if (data.parent_run_id) this.#agent.append(`, for run ${brief(data.parent_run_id, 8)}`);
    return `Run started: ${this.title}`;
  }

  #completed({ status, result, result_omitted: omitted, duration }) {
    const state = ENDS.has(status) && status !== "error" ? status : "success";
    const { answer, sources } = result !== null && typeof result === "object" ? result : {};
    if (typeof answer === "string") {
      const last = [...this.#messages.values()].at(-1) ?? this.#message("");
      last.completeWith(answer);
      if (Array.isArray(sources) && sources.length > 0) this.#step("sources", sourceList(sources));
    } else if (omitted) {
      this.#step("other", el("p", {}, notJson(omitted)));
    } else if (result !== null && result !== undefined) {
      this.#step("other", unknown("result", result));
    }
    return this.#finish(state, duration === undefined ? "" : `${state === "success" ? "in" : "after"} ${seconds(duration)}`);
  }

  #failed({ error, error_type: kind, reason, duration }) {
    const said = reason === "timeout" ? "It took too long." : kind && kind !== error ? `${kind}: ${error}` : error;
    const took = seconds(duration);
    return this.#finish(reason === "lost" ? "lost" : "error", [took && `after ${took}`, brief(said, 600)].filter(Boolean).join(". "));
  }

  #finish(state, detail) {
    for (const tool of this.#tools.values()) tool.abandon();
    this.#setState(state, ENDS.get(state));
    const hadFocus = document.activeElement === this.#stop;
    this.#stop.remove();
    if (hadFocus) this.#title.focus();
    this.#end.replaceChildren(el("strong", {}, ENDS.get(state)), detail.startsWith("in ") || detail.startsWith("after ") ? " " : ". ", detail);
    this.#end.hidden = false;
    return `${ENDS.get(state)}: ${this.title}`;
  }

  #setState(state, label) {
    this.article.dataset.state = state;
    this.#state.dataset.state = state;
    this.#state.textContent = label;
  }

  async #stopped(stop) {
    this.#stop.textContent = "Stopping…";
    this.#stop.setAttribute("aria-disabled", "true");
    if (await stop()) return;
    this.#stop.textContent = "Stop";
    this.#stop.removeAttribute("aria-disabled");
  }

  #step(kind, ...content) {
    this.#steps.append(el("li", { class: `step ${kind}` }, ...content));
  }

  #toolFor(data) {
    let tool = this.#tools.get(data.tool_call_id);
    if (tool === undefined) {
      tool = new ToolView(data);
      this.#tools.set(data.tool_call_id, tool);
      this.#step("call", tool.element);
    }
    return tool;
  }

  #message(id) {
    let message = this.#messages.get(id);
    if (message === undefined) {
      message = new GrowingText();
      this.#messages.set(id, message);
      message.element.setAttribute("data-testid", "answer");
      this.#step("answer", message.element);
    }
    return message;
  }
}

class ToolView {
  #state = el("span", { class: "tool-state" });
  #body = el("div", { class: "tool-body" });
  #progress = null;

  constructor({ tool, arguments: given, arguments_omitted: omitted }) {
    const values = given !== null && typeof given === "object" ? Object.values(given) : [];
    const preview = values.map((value) => brief(Array.isArray(value) ? value.join(", ") : value, 60)).join(", ");
    this.element = el(
      "details",
      { "data-testid": "tool" },
      el("summary", {}, el("code", { class: "tool-name" }, brief(tool ?? "a tool", 60)), el("span", { class: "preview" }, brief(preview)), this.#state),
      this.#body,
    );
    this.#set("running", "");
    if (omitted) this.#part("Arguments", notJson(omitted));
    else if (given !== undefined) this.#part("Arguments", given);
  }

  progress({ tool_call_id: _id, tool: _tool, ...rest }) {
    if (this.#progress === null) this.#progress = this.#part("Progress", rest);
    else this.#progress.textContent = pretty(rest);
    return undefined;
  }

  complete({ status, result, result_omitted: omitted, error, duration }) {
    this.#set(TOOL_STATES.has(status) ? status : "success", seconds(duration));
    if (error) this.#part("Error", error);
    if (omitted) this.#part("Result", notJson(omitted));
    else if (result !== null && result !== undefined) this.#part("Result", result);
    return undefined;
  }

  // Its run ended and its own end never came.
  abandon() {
    if (this.element.dataset.state === "running") this.#set("cancelled", "");
  }

  #set(state, took) {
    this.element.dataset.state = state;
    this.#state.textContent = [TOOL_STATES.get(state), took].filter(Boolean).join(" · ");
  }

  #part(name, value) {
    const text = el("pre", { tabindex: "0", "aria-label": name }, typeof value === "string" ? value : pretty(value));
    this.#body.append(el("h4", {}, name), text);
    return text;
  }
}

function notJson(kind) {
  return `Left out by the server: ${kind} is not JSON.`;
}

function sourceList(sources) {
  return el(
    "ul",
    { "aria-label": "Sources", "data-testid": "sources" },
    ...sources.slice(0, 20).map((source) =>
      el("li", {}, el("span", { class: "number" }, source.number), el("cite", {}, brief(source.heading, 120)), " ", el("code", {}, `${source.document}:${source.line}`)),
    ),
  );
}

export function unknown(type, data) {
  return el("details", { "data-testid": "other" }, el("summary", {}, el("code", {}, brief(type, 60))), el("pre", { tabindex: "0" }, pretty(data)));
}
