// Where the focus is, whether it can be seen, and how thick the ring around it is.
() => {
  const element = document.activeElement;
  const box = element.getBoundingClientRect();
  const style = getComputedStyle(element);
  const drawn = document.elementFromPoint(box.left + Math.min(box.width / 2, 20), box.top + box.height / 2);
  return {
    name: element.dataset.testid ?? element.tagName.toLowerCase(),
    side: element.closest(".pane")?.dataset.testid ?? null,
    text: element.textContent.trim(),
    seen: element.checkVisibility() && box.width > 0 && box.top >= -0.5 && box.bottom <= innerHeight + 0.5,
    covered: !element.contains(drawn),
    ring: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
  };
}
