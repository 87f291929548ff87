// A text that grows by deltas. `start` counts Unicode code points, so a text that begins again is cut and a hole is shown.

import { el } from "./dom.js";

const LONGEST = 1_000_000; // code points; a `start` beyond that is a mistake, and the text is put at the end

export class GrowingText {
  #points = []; // one string per code point; null where the text is not known
  #holes = 0;
  #tail = document.createTextNode("");

  constructor() {
    this.element = el("p", { dir: "auto" }, this.#tail);
  }

  add(start, text) {
    if (typeof text !== "string") return;
    const place = Number.isInteger(start) && start >= 0 && start <= LONGEST ? start : this.#points.length;
    if (place === this.#points.length) {
      for (const point of text) this.#points.push(point);
      this.#tail.appendData(text);
      return;
    }
    if (this.#points.length > place) this.#points.length = place; // begun again from there
    while (this.#points.length < place) this.#points.push(null);
    for (const point of text) this.#points.push(point);
    this.#draw();
  }

  // What the run's result says the whole text is, if some of it never came.
  completeWith(text) {
    if (this.#holes === 0 && this.#points.length > 0) return;
    this.#points = Array.from(text);
    this.#draw();
  }

  #draw() {
    this.#holes = 0;
    this.element.replaceChildren();
    let known = "";
    for (let at = 0; at < this.#points.length; at += 1) {
      if (this.#points[at] !== null) {
        known += this.#points[at];
        continue;
      }
      let end = at;
      while (end < this.#points.length && this.#points[end] === null) end += 1;
      const missing = end - at;
      this.element.append(known, el("span", { class: "hole" }, `[${missing} ${missing === 1 ? "character" : "characters"} missing]`));
      known = "";
      this.#holes += 1;
      at = end - 1;
    }
    this.#tail = document.createTextNode(known);
    this.element.append(this.#tail);
  }
}
