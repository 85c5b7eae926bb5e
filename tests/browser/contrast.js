// Visible texts with too little contrast: WCAG AA asks for 3 for large texts, 4.5 for all others.
const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
// a page has thousands of texts and few colours: what was computed once is kept
const memory = (compute) => {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) known.set(key, compute(key));
    return known.get(key);
  };
};
const parse = memory((colour) => {
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
});
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((one) => (one / 255 <= 0.03928 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = memory((node) => (node ? over(parse(getComputedStyle(node).backgroundColor), ground(node.parentElement)) : [255, 255, 255]));
const opacity = memory((node) => (node ? +getComputedStyle(node).opacity * opacity(node.parentElement) : 1));
const found = [];
let count = 0;
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
  if (!own || !node.checkVisibility({ visibilityProperty: true }) || node.closest("[disabled], .star, .skip, .old, #chart")) continue;
  count += 1;
  const style = getComputedStyle(node);
  const below = ground(node);
  const [r, g, b, a] = parse(style.color);
  const [shown, behind] = [luminance(over([r, g, b, a * opacity(node)], below)), luminance(below)];
  const ratio = (Math.max(shown, behind) + 0.05) / (Math.min(shown, behind) + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && +style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) found.push(`${node.tagName}.${node.className}#${node.id} ${node.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
}
return [count, found];
