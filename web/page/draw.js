// Colours of weights, and maps drawn with them. Zero is the paper, plus blue, minus orange, on one scale for all maps.

// Weights from here on have the full colour.
const FULL = 0.6;
// Small weights are to be seen beside large ones.
const GAMMA = 0.55;

const strength = (weight) => Math.min(1, Math.abs(weight) / FULL) ** GAMMA;

function channels(colour) {
  const hex = colour.trim().slice(1);
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// The colours of the scheme that is on.
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const named = ["zero", "plus", "minus", "masked", "ink"];
  return Object.fromEntries(named.map((name) => [name, channels(style.getPropertyValue(`--${name}`))]));
}

export function colour(weight, { zero, plus, minus }) {
  const t = strength(weight);
  const end = weight < 0 ? minus : plus;
  return zero.map((from, i) => Math.round(from + t * (end[i] - from)));
}

const luminance = (rgb) => {
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

// Paper of a word, and ink that can be read on it: black or white, whichever differs more.
export function wordColours(weight, colours) {
  const paper = colour(weight, colours);
  const light = luminance(paper);
  const ink = (light + 0.05) / 0.05 > 1.05 / (light + 0.05) ? "#000" : "#fff";
  return { paper: `rgb(${paper})`, ink };
}

// Draws an n × n causal map; `mark` is the cell whose row and column are framed.
export function drawMap(canvas, weights, n, colours, mark) {
  const image = new ImageData(n, n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      image.data.set([...(j <= i ? colour(weights[i * n + j], colours) : colours.masked), 255], 4 * (i * n + j));
    }
  }
  const cell = Math.max(2, Math.round((canvas.clientWidth * devicePixelRatio || 300) / n));
  canvas.width = canvas.height = cell * n;
  const context = canvas.getContext("2d");
  const small = new OffscreenCanvas(n, n);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, cell * n, cell * n);
  if (!mark) return;
  context.strokeStyle = `rgb(${colours.ink})`;
  context.lineWidth = Math.max(1, devicePixelRatio);
  context.strokeRect(0.5, mark.row * cell + 0.5, (mark.row + 1) * cell - 1, cell - 1);
  if (mark.column >= 0) context.strokeRect(mark.column * cell + 0.5, mark.row * cell + 0.5, cell - 1, cell - 1);
}

// The colour scale from −FULL to FULL, with numbers where they are.
export function drawLegend(canvas, numbers, colours) {
  const width = (canvas.width = 400);
  const context = canvas.getContext("2d");
  const place = (weight) => (0.5 + (0.5 * Math.sign(weight) * strength(weight))) * 100;
  for (let x = 0; x < width; x++) {
    const t = (2 * x) / (width - 1) - 1;
    const weight = Math.sign(t) * FULL * Math.abs(t) ** (1 / GAMMA);
    context.fillStyle = `rgb(${colour(weight, colours)})`;
    context.fillRect(x, 0, 1, 12);
  }
  numbers.replaceChildren(
    ...[-0.5, -0.2, -0.05, 0, 0.05, 0.2, 0.5].map((weight) => {
      const span = document.createElement("span");
      span.style.left = `${place(weight)}%`;
      span.textContent = String(weight).replace("-", "−");
      return span;
    }),
  );
}

// The cell of an n × n map under the pointer.
export function cellAt(canvas, event, n) {
  const box = canvas.getBoundingClientRect();
  const at = (offset, size) => Math.min(n - 1, Math.max(0, Math.floor((offset / size) * n)));
  return { row: at(event.clientY - box.top, box.height), column: at(event.clientX - box.left, box.width) };
}

// A number with a real minus sign, of even width.
export const number = (value, digits = 2) => (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits).replace("-", "−");
