// Every text that can be seen and whose contrast with what is behind it is below what WCAG 2.2 asks (1.4.3, level AA):
// 4.5, or 3 for large text. A button out of use is exempt there, and here is not.
() => {
  const parse = (text) => {
    const numbers = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    return { rgb: numbers.slice(0, 3).map((value) => value * scale), alpha: numbers[3] ?? 1 };
  };
  const over = ({ rgb, alpha }, below) => rgb.map((value, i) => value * alpha + below[i] * (1 - alpha));
  const behind = (element) => {
    if (element === null) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own.alpha === 1 ? own.rgb : over(own, behind(element.parentElement));
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const hasText = ({ childNodes, value }) =>
    value || Array.from(childNodes).some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "");

  const seen = Array.from(document.body.querySelectorAll("*")).filter(
    (element) => hasText(element) && element.checkVisibility() && !element.closest(".spoken"),
  );
  const faint = [];
  for (const element of seen) {
    const style = getComputedStyle(element);
    const below = behind(element);
    const found = contrast(over(parse(style.color), below), below);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (found < (isLarge ? 3 : 4.5)) {
      faint.push(`${found.toFixed(2)}: ${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 40)}`);
    }
  }
  return { seen: seen.length, faint };
}
