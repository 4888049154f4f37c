// Lines on two logarithmic axes, as SVG.

const COLOURS = ["var(--plus)", "var(--minus)", "var(--good)", "var(--quiet)"];

// `series`: name → points { x, y }; `limit`: a level to draw, if known.
export function plot(series, limit) {
  const points = [...series.values()].flat();
  if (!points.length) return "";
  const [width, height, left, right, top, bottom] = [640, 300, 58, 16, 16, 34];
  const decades = (values) => [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values) * 1.01))];
  const [low, high] = decades([...points.map(({ y }) => y), ...(limit ? [limit] : [])]);
  const xs = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  const [first, last] = [Math.log2(xs[0]) - 0.3, Math.log2(xs.at(-1)) + 0.3];
  const x = (value) => (left + ((Math.log2(value) - first) / (last - first)) * (width - left - right)).toFixed(1);
  const y = (value) => (height - bottom - ((Math.log10(value) - low) / (high - low)) * (height - top - bottom)).toFixed(1);
  const parts = [];
  for (let power = low; power <= high; power++) {
    const at = y(10 ** power);
    parts.push(`<path class="grid" d="M${left} ${at}H${width - right}"/><text x="${left - 8}" y="${+at + 4}" text-anchor="end">${+(10 ** power).toPrecision(1)}</text>`);
  }
  for (const value of xs) parts.push(`<text x="${x(value)}" y="${height - bottom + 18}" text-anchor="middle">${value}</text>`);
  parts.push(`<text x="${left - 50}" y="${top - 4}">TFLOP/s</text><text x="${width - right}" y="${height - 2}" text-anchor="end">words</text>`);
  if (limit) parts.push(`<path class="limit" d="M${left} ${y(limit)}H${width - right}"/><text x="${width - right}" y="${y(limit) - 5}" text-anchor="end">f32 registers, measured</text>`);
  [...series].forEach(([name, line], index) => {
    const colour = COLOURS[index % COLOURS.length];
    const sorted = [...line].sort((a, b) => a.x - b.x);
    parts.push(`<polyline stroke="${colour}" points="${sorted.map((point) => `${x(point.x)},${y(point.y)}`).join(" ")}"/>`);
    for (const point of sorted) parts.push(`<circle cx="${x(point.x)}" cy="${y(point.y)}" r="3.5" fill="${colour}"/>`);
    parts.push(`<circle cx="${left + 12}" cy="${top + 12 + 18 * index}" r="4" fill="${colour}"/><text class="series" x="${left + 22}" y="${top + 16 + 18 * index}">${name}</text>`);
  });
  const label = [...series].map(([name, line]) => `${name}: ${line.map((point) => `${point.y.toPrecision(2)} TFLOP/s at ${point.x}`).join(", ")}`).join("; ");
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}">${parts.join("")}</svg>`;
}
