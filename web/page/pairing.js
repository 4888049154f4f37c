// The second panel: neighbours and halves.

import { drawMap, number, palette } from "./draw.js";
import { failed } from "./engine.js";

const $ = (id) => document.getElementById(id);
const N = 48;
const LAM = 4;
const SEED = 11;

export function startPairing(page) {
  let kvHeads = 2;
  let shown = null;
  let running = 0;

  // Computed when it is about to be seen: the first maps come first.
  let near = false;
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    near = true;
    compute();
  }, { rootMargin: "200px" }).observe($("pairing"));

  async function compute() {
    if (!near || !page.engine) return;
    const run = ++running;
    try {
      const wirings = [];
      for (const halves of [false, true]) {
        wirings.push(await page.wasm.wire(page.engine, halves, kvHeads, N, LAM, SEED));
      }
      if (run !== running) return;
      shown = wirings.map((wiring) => ({ weights: wiring.weights, sums: wiring.sums(N - 1) }));
      show();
    } catch (error) {
      failed(page, error);
    }
  }

  function show() {
    const colours = palette();
    ["right", "wrong"].forEach((name, index) => {
      const figure = $(`wiring-${name}`);
      const { weights, sums } = shown[index];
      figure.querySelector(".wires").innerHTML = wires(index === 1);
      drawMap(figure.querySelector("canvas"), weights, N, colours);
      const [needle, , noise] = sums;
      figure.querySelector(".sums").textContent = `answer ${number(needle)} · noise ${number(noise)} · ratio ${number(needle / noise, 1)}`;
    });
    $("pairing-text").textContent =
      kvHeads === 1
        ? "With one KV head every query head reads the same keys. Halves are then only another numbering of the heads: both maps are the same, and the mistake goes unnoticed until somebody adds KV heads."
        : "With two KV heads, halves take query heads 0 and 2 for a pair: one reads the first KV head, the other the second. Their noise has nothing in common, so the subtraction adds noise instead of removing it. The library's layout knows only neighbours, and it refuses head counts where even those would cross.";
  }

  // Query heads above, KV heads below; members of a pair are tied.
  function wires(halves) {
    const x = (head) => 35 + 60 * head;
    const kv = (head) => (kvHeads === 1 ? 0 : Math.floor(head / 2));
    const kvX = (group) => (kvHeads === 1 ? 125 : 65 + 120 * group);
    const ties = (halves ? [[0, 2], [1, 3]] : [[0, 1], [2, 3]]).map(([a, b], pair) => {
      const top = halves ? 18 - 10 * pair : 14;
      return `<path class="tie" d="M${x(a)} 30V${top}H${x(b)}V30"/>`;
    });
    const heads = [0, 1, 2, 3].map(
      (head) =>
        `<path class="kv${kv(head)}" d="M${x(head)} 54C${x(head)} 76 ${kvX(kv(head))} 68 ${kvX(kv(head))} 90"/>` +
        `<rect x="${x(head) - 18}" y="30" width="36" height="24" rx="4"/><text x="${x(head)}" y="46">q${head}</text>`,
    );
    const groups = Array.from({ length: kvHeads }, (_, group) =>
      `<rect class="kv" x="${kvX(group) - 32}" y="90" width="64" height="24" rx="4"/><text x="${kvX(group)}" y="106">K${group}, V${group}</text>`);
    const reads = (halves ? [0, 2] : [0, 1]).map((head) => `KV head ${kv(head)}`);
    const label = `The first pair's members read ${reads[0]} and ${reads[1]}`;
    return `<svg viewBox="0 0 250 118" role="img" aria-label="${label}">${ties.join("")}${heads.join("")}${groups.join("")}</svg>`;
  }

  for (const input of document.querySelectorAll("#kv-heads input")) {
    input.onchange = () => {
      kvHeads = Number(input.value);
      compute();
    };
  }
  const redraw = () => shown && show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  return { engineChanged: compute };
}
