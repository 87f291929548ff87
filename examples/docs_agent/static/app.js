// Two panes, or one with ?user=. Names in the address are signed in at once, so that a tab can be opened ready.

import { Pane } from "./pane.js";

const EXAMPLES = {
  left: ["How does a client resume after a cut?", "What is lost when a process is killed?", "read missing.md"],
  right: ["How are users isolated from each other?", "What does a slow reader delay?", "read README.md"],
};

const asked = new URLSearchParams(location.search);
const alone = asked.has("user");
const sides = alone ? [["left", "user", ""]] : [["left", "left", "alice"], ["right", "right", "bob"]];

const panes = new Map();
for (const [side, name, standard] of sides) {
  const pane = new Pane(document.getElementById("pane"), {
    side,
    user: asked.get(name) ?? standard,
    examples: EXAMPLES[side],
    onChange: remember,
  });
  panes.set(name, pane);
  document.getElementById("panes").append(pane.element);
}
document.body.classList.toggle("alone", alone);
for (const [name, pane] of panes) if (asked.get(name)) pane.signIn(asked.get(name));

// The address follows who is signed in, so that a reload comes back to the same two people.
function remember() {
  const names = new URLSearchParams();
  for (const [name, pane] of panes) if (pane.user !== null) names.set(name, pane.user);
  if (alone && !names.has("user")) names.set("user", "");
  history.replaceState(null, "", names.size > 0 ? `?${names}` : location.pathname);
}
