// Which of the words are anywhere in a pane, its attributes included.
(pane, words) =>
  Array.from(pane.outerHTML.matchAll(new RegExp(`\\b(${words.join("|")})\\b`, "gi")), ([word]) => word.toLowerCase())
