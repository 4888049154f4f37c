// The first panel: a text, its maps, and the gate.

import { cellAt, drawLegend, drawMap, number, palette, wordColours } from "./draw.js";
import { failed } from "./engine.js";
import { saveScene } from "./safetensors.js";

const $ = (id) => document.getElementById(id);
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logit = (p) => Math.log(p / (1 - p));

const PRESETS = {
  needle: {
    lam: 0.6,
    text: "Both maps have the first word and the noise; only the first map has the answer. Open the gate and the answer stays, alone.",
  },
  sink: {
    lam: 4,
    text: "No word answers. Ordinary attention must look somewhere all the same and parks on the first word. The difference can say nothing: its output falls towards 0.",
  },
  noise: {
    lam: 6,
    text: "Both maps hold the same noise and nothing else. With an open gate nothing is left, as it should be.",
  },
  two: {
    lam: 1,
    text: "The word “Paris” is wanted too, but both maps see it alike. Subtraction cannot tell it from noise: it goes as well. What is to stay must differ between the maps.",
  },
  apart: {
    lam: 0,
    text: "The maps have nothing in common. Then subtracting helps nothing: it adds the second map's noise with a minus. Shut the gate (λ → −6) and it is ordinary attention again.",
  },
};
const START = { preset: "needle", n: 32, seed: 55, head: 0, lam: [0.6, 0.6] };

export function startIdea(page) {
  const { wasm } = page;
  const state = { ...START, ...presetSliders("needle"), ...fromHash() };
  let idea, maps, weights, colours, cell, running, wanted;

  function presetSliders(name) {
    const [noise, shared] = wasm.presetNoise(name);
    return { noise, shared };
  }

  // State in the address, so that a view can be shared.
  function fromHash() {
    const found = new URLSearchParams(location.hash.slice(1));
    const given = {};
    const within = (name, low, high) => {
      const value = Number(found.get(name));
      return found.has(name) && value >= low && value <= high ? value : undefined;
    };
    if (Object.hasOwn(PRESETS, found.get("preset"))) {
      given.preset = found.get("preset");
      Object.assign(given, presetSliders(given.preset));
    }
    for (const [name, low, high] of [["noise", 0, 2.5], ["shared", 0, 1], ["seed", 0, 2 ** 32 - 1], ["head", 0, 1]]) {
      const value = within(name, low, high);
      if (value !== undefined) given[name] = name === "seed" || name === "head" ? Math.round(value) : value;
    }
    const n = within("n", 24, 128);
    if (n !== undefined) given.n = Math.round(n / 8) * 8;
    const lam = ["lam1", "lam2"].map((name) => within(name, -6, 6));
    if (lam.every((value) => value !== undefined)) given.lam = lam;
    return given;
  }

  function toHash() {
    const { preset, n, seed, head, noise, shared, lam } = state;
    const short = (value) => Number(value.toFixed(3));
    const values = { preset, n, seed, head, noise: short(noise), shared: short(shared), lam1: short(lam[0]), lam2: short(lam[1]) };
    history.replaceState(null, "", `#${new URLSearchParams(values)}`);
  }

  // A new text or new noise: new tensors.
  function rebuild() {
    idea?.free();
    idea = new wasm.Idea(state.preset, state.noise, state.shared, state.n, state.seed);
    idea.cached = { words: idea.words, answers: [...idea.answers] };
    cell = { row: state.n - 1, column: -1 };
    buildStrips();
    compute();
  }

  // Computes what the sliders say; while one computation runs, only the newest wish is kept.
  async function compute() {
    wanted = true;
    if (running || !page.engine) return;
    running = true;
    while (wanted) {
      wanted = false;
      const [from, engine] = [idea, page.engine];
      try {
        const computed = await from.compute(engine, Float32Array.from(state.lam));
        if (from === idea) {
          maps?.free();
          maps = computed;
          show();
        }
      } catch (error) {
        failed(page, error);
        if (page.engine === engine) break;
        wanted = true; // by the engine that took over
      }
    }
    running = false;
  }

  function buildStrips() {
    for (const id of ["strip-ordinary", "strip-v2"]) {
      const words = idea.cached.words.map((word, j) => {
        const span = document.createElement("span");
        span.textContent = word;
        span.onpointerenter = () => point({ row: cell.row, column: j });
        return span;
      });
      $(id).replaceChildren(...words.flatMap((span) => [span, " "]));
    }
  }

  const answer = () => idea.cached.answers[state.head];
  const map = (kind) => weights.subarray(kind * state.n ** 2, (kind + 1) * state.n ** 2);

  // Everything that depends on the maps.
  function show() {
    colours ??= palette();
    weights = maps.weights(state.head);
    const gate = sigmoid(state.lam[state.head]);
    drawMap($("map-first"), map(0), state.n, colours, cell);
    drawMap($("map-second"), map(3).map((weight) => gate * weight), state.n, colours, cell);
    drawMap($("map-v2"), map(2), state.n, colours, cell);
    drawLegend($("legend"), $("legend-numbers"), colours);
    $("gate-value").textContent = number(gate);
    showRow();
    showControls();
    $("map-v2").dataset.label = maps.label;
    toHash();
    if (!performance.getEntriesByName("first-map").length) performance.mark("first-map");
  }

  // What depends on the row that reads.
  function showRow() {
    const { row, column } = cell;
    const { words } = idea.cached;
    for (const [id, kind] of [["strip-ordinary", 0], ["strip-v2", 2]]) {
      $(id).querySelectorAll("span").forEach((span, j) => {
        const { paper, ink } = wordColours(j <= row ? map(kind)[row * state.n + j] : 0, colours);
        span.style.background = paper;
        span.style.color = ink;
        span.className = [j === row && "reader", j === column && "at", j === answer() && "answer"].filter(Boolean).join(" ");
      });
    }
    const sums = maps.sums(state.head, row);
    showBars(sums);
    showRms(sums);
    const star = maps.cancellingGate(state.head, row);
    $("star").hidden = $("star-go").hidden = !(star > sigmoid(-6) && star < sigmoid(6));
    $("star").firstElementChild.style.left = `${((logit(star) + 6) / 12) * 100}%`;
    $("star-go").onclick = () => setGate(Math.round(logit(star) * 20) / 20);
    $("star-text").textContent =
      star < 1.005
        ? `σ* = ${number(star)} cancels exactly what both maps share (the tick).`
        : `σ* = ${number(star)}: no gate is wide enough to cancel all that both maps share.`;
    const at = (kind) => number(map(kind)[row * state.n + column], 3);
    const gate = sigmoid(state.lam[state.head]);
    $("cell").textContent =
      column < 0 ? "Point at a cell, or move with the arrow keys, for its numbers."
      : column > row ? `“${words[row]}” cannot see “${words[column]}”: it comes later.`
      : `“${words[row]}” reads “${words[column]}”: ${at(0)} − ${number(gate)} · ${at(3)} = ${at(2)}`;
  }

  function showBars(sums) {
    $("bars-word").textContent = `“${idea.cached.words[cell.row]}” (word ${cell.row + 1} of ${state.n})`;
    const { words } = idea.cached;
    const rows = [`on “${words[answer()]}”, the answer`, `on ${words[0]}, the sink`, "on all the rest, the noise"];
    $("bars").tBodies[0].replaceChildren(
      ...rows.map((title, what) => {
        const row = document.createElement("tr");
        row.innerHTML = `<th scope="row"></th>` + `<td><span class="value"></span><span class="bar"><i></i></span></td>`.repeat(3);
        row.firstChild.textContent = title;
        [0, 1, 2].forEach((kind) => {
          const value = sums[4 * kind + what];
          const td = row.children[kind + 1];
          td.firstChild.textContent = number(value);
          const bar = td.querySelector("i");
          // From −⅓ to 1: zero is a quarter of the way.
          const width = Math.min(Math.abs(value), value < 0 ? 1 / 3 : 1) * 75;
          bar.style.cssText = `left: ${value < 0 ? 25 - width : 25}%; width: ${width}%`;
          bar.className = value < 0 ? "minus" : "";
        });
        return row;
      }),
    );
  }

  function showRms(sums) {
    const [ordinary, v1, v2] = [3, 7, 11].map((at) => sums[at]);
    const least = 1 / Math.sqrt(cell.row + 1);
    const place = (value) => `${(Math.min(value, Math.SQRT2) / Math.SQRT2) * 100}%`;
    const marks = [["ordinary", ordinary, "quiet", 2.7], ["V1", v1, "minus", 1.55], ["V2", v2, "plus", 0.5]];
    $("rms").innerHTML =
      `<span class="never" style="width:${place(least)}"></span><span class="axis"></span>` +
      marks.map(([name, value, ink, height]) =>
        `<span class="value" style="left:${place(value)};height:${height}rem;border-color:var(--${ink})"><b${value < 0.12 ? ' class="edge"' : ""}>${name} ${number(value)}</b></span>`).join("") +
      `<span class="tick first" style="left:0">0</span><span class="tick" style="left:${place(least)}">${least > 0.09 && least < 0.9 ? "1/√n" : ""}</span>` +
      `<span class="tick" style="left:${place(1)}">1</span><span class="tick last" style="left:100%">√2</span>`;
    $("rms").setAttribute("aria-label", `Context RMS: ordinary ${number(ordinary)}, V1 ${number(v1)}, V2 ${number(v2)}; a softmax row of ${cell.row + 1} words cannot go below ${number(least)}`);
    const gain = (1 - wasm.v1Lambda()) / Math.max(v1, 1e-5);
    $("rms-text").textContent =
      `The hatched part is out of reach for a softmax over ${cell.row + 1} words. V1 puts its heads through a norm, which here ` +
      `multiplies by ${number(gain * 1 / (1 - wasm.v1Lambda()), 1)}; for ever longer texts that gain grows like √n, and so do its gradients. V2's does not grow.`;
  }

  function showControls() {
    $("lam").value = state.lam[state.head];
    $("lam").setAttribute("aria-valuetext", `λ ${number(state.lam[state.head])}, gate ${number(sigmoid(state.lam[state.head]))}`);
    $("lam-out").textContent = `λ = ${number(state.lam[state.head])}   σ = ${number(sigmoid(state.lam[state.head]))}`;
    for (const name of ["noise", "shared", "n"]) $(name).value = state[name];
    $("noise-out").textContent = number(state.noise);
    $("shared-out").textContent = `${Math.round(state.shared * 100)} %`;
    $("n-out").textContent = state.n;
    $("preset-text").textContent = PRESETS[state.preset].text;
    $("v1-lambda").textContent = `λ = ${number(wasm.v1Lambda())}`;
    document.querySelector(`#presets input[value="${state.preset}"]`).checked = true;
    document.querySelector(`input[name="head"][value="${state.head}"]`).checked = true;
  }

  function setGate(lam) {
    const clamped = Math.min(6, Math.max(-6, lam));
    state.lam = state.lam.map((old, head) => (head === state.head || $("all-heads").checked ? clamped : old));
    compute();
  }

  function point(at) {
    cell = at;
    if (maps) show();
  }

  for (const input of document.querySelectorAll("#presets input")) {
    input.onchange = () => {
      Object.assign(state, { preset: input.value, ...presetSliders(input.value) });
      state.lam = state.lam.map(() => PRESETS[input.value].lam);
      rebuild();
    };
  }
  for (const input of document.querySelectorAll('input[name="head"]')) {
    input.onchange = () => {
      state.head = Number(input.value);
      if (maps) show();
    };
  }
  $("lam").oninput = () => setGate($("lam").valueAsNumber);
  for (const name of ["noise", "shared", "n"]) {
    $(name).oninput = () => {
      state[name] = $(name).valueAsNumber;
      rebuild();
    };
  }
  $("reseed").onclick = () => {
    state.seed = (state.seed + 1) % 2 ** 32;
    rebuild();
  };
  $("save").onclick = () => maps && saveScene(idea, maps, state.n);

  // From shut to open in some seconds; any other use of the slider ends it.
  let sweeping = 0;
  $("sweep").onclick = () => {
    const run = ++sweeping;
    const start = performance.now();
    const step = (now) => {
      const t = Math.min(1, (now - start) / 5000);
      if (run !== sweeping) return;
      setGate(-6 + 12 * t);
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  };
  $("lam").addEventListener("input", () => sweeping++);

  for (const id of ["map-first", "map-second", "map-v2"]) {
    const canvas = $(id);
    const follow = (event) => point(cellAt(canvas, event, state.n));
    canvas.onpointermove = follow;
    canvas.onpointerdown = follow;
    canvas.onpointerleave = () => point({ row: cell.row, column: -1 });
  }
  $("map-v2").onkeydown = (event) => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const within = (value) => Math.min(state.n - 1, Math.max(0, value));
    const column = cell.column < 0 ? answer() : within(cell.column + right);
    point({ row: within(cell.row + down), column });
  };

  const redraw = () => {
    colours = palette();
    if (maps) show();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);

  rebuild();
  return { engineChanged: compute };
}
