// What reaches beyond the right edge of the window.
() => {
  const page = document.documentElement;
  const found = page.scrollWidth > innerWidth ? [`the page is ${page.scrollWidth} wide`] : [];
  for (const element of document.body.querySelectorAll("*")) {
    const { right } = element.getBoundingClientRect();
    if (right > innerWidth + 0.5 && element.checkVisibility() && !element.closest(".spoken")) {
      found.push(`${element.tagName} ${element.className} ends at ${right}`);
    }
  }
  return found;
}
