// What a reader of the page at hand would stumble over: a list of sentences, empty where nothing is wrong.
(() => {
  const found = new Set();
  const root = document.documentElement, width = root.clientWidth, paper = matchMedia("print").matches;
  document.querySelectorAll("details").forEach(details => { details.open = true; });

  const channels = text => {
    const [red, green, blue, alpha = 1] = text.match(/[\d.]+/g).map(Number);
    return { rgb: [red, green, blue], alpha };
  };
  const light = rgb => rgb
    .map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const { rgb, alpha } = channels(getComputedStyle(e).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const box = element => element.getBoundingClientRect();
  const short = element => `<${element.tagName.toLowerCase()}> ${element.textContent.trim().slice(0, 40)}`;

  // Nothing is wider than the window but what scrolls in a box of its own; paper does not scroll.
  if (root.scrollWidth > width) found.add(`the page is ${root.scrollWidth} wide in a window of ${width}`);
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const boxed = !paper && element.parentElement.closest(".wide");
    if (!boxed && (box(element).right > width + 1 || box(element).left < -1)) found.add(`beyond the edge: ${short(element)}`);
  }

  // Text can be read: large enough, unlike its ground.
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || ["STYLE", "SCRIPT"].includes(element.tagName)) continue;
    const picture = element.closest("svg");
    const ink = channels(picture ? style.fill : style.color);
    if (ink.alpha < 1 || contrast(ink.rgb, ground(picture ?? element)) < 4.5) found.add(`too faint: ${short(element)}`);
    const scale = picture ? box(picture).width / picture.viewBox.baseVal.width : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < (picture ? 7.5 : 11) && !paper) found.add(`too small, ${size.toFixed(1)} px: ${short(element)}`);
  }

  // Pictures are there, have something drawn in the colours of data, and their words neither leave them nor collide.
  for (const picture of document.querySelectorAll("svg")) {
    const frame = box(picture), name = picture.getAttribute("aria-label");
    if (frame.width < 80 || frame.height < 60) found.add(`a picture of ${frame.width} x ${frame.height}: ${name}`);
    if (!/(fill|stroke): #|<image/.test(picture.innerHTML)) found.add(`an empty picture: ${name}`);
    const texts = [...picture.querySelectorAll("text")].filter(text => text.textContent.trim());
    if (!texts.length) found.add(`a picture without words: ${name}`);
    for (const text of texts) {
      const { left, right, top, bottom } = box(text);
      if (left < frame.left - 3 || right > frame.right + 3 || top < frame.top - 3 || bottom > frame.bottom + 3) {
        found.add(`cut off: ${short(text)} in ${name}`);
      }
    }
    const upright = texts.filter(text => !/rotate\(-?(?!0\b|90\b|180\b|270\b)[\d.]+/.test(text.outerHTML)).map(box);
    upright.forEach((one, i) => upright.slice(0, i).forEach(other => {
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      const smaller = Math.min(one.width * one.height, other.width * other.height);
      if (across > 0 && down > 0 && across * down > 0.2 * smaller) found.add(`words collide in ${name}`);
    }));
  }

  // Nothing is empty.
  for (const section of document.querySelectorAll("section")) {
    if (!section.querySelector("svg, table, p, pre, ol")) found.add(`an empty section: ${short(section)}`);
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.querySelector("tbody td")) found.add(`an empty table: ${short(table)}`);
  }
  for (const element of document.querySelectorAll("p, pre, figcaption, summary, h1, h2")) {
    if (!element.textContent.trim()) found.add(`an empty <${element.tagName.toLowerCase()}>`);
    if (!paper && box(element).height < 10) found.add(`not shown: ${short(element)}`);
  }
  for (const word of document.body.innerText.match(/\b(nan|None|inf|undefined)\b/g) ?? []) found.add(`it says ${word}`);
  return [...found];
})()
