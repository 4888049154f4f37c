// Starts the page: finds out who can compute, and gives it to the panels.

import init, * as wasm from "./pkg/diffattn.js";
import { openEngine } from "./engine.js";
import { startIdea } from "./idea.js";
import { startPairing } from "./pairing.js";
import { startCheck } from "./check.js";
import { startMeasure } from "./measure.js";

// The project's repository, for the link at the end and for prefilled issues; both are hidden while it is empty.
const REPOSITORY = document.querySelector('meta[name="repository"]').content;

const ready = init();
const panels = [];

// Everything that computes asks here, so that a new engine takes over everywhere.
export const page = {
  wasm,
  engine: null,
  async restart() {
    await ready;
    await openEngine(page);
    performance.mark("engine");
    page.engineChanged();
  },
  engineChanged() {
    for (const panel of panels) panel.engineChanged();
  },
};

await ready;
panels.push(startIdea(page), startPairing(page), startCheck(page), startMeasure(page, REPOSITORY));
await page.restart();

const links = document.getElementById("links");
if (REPOSITORY) {
  links.innerHTML = `<a href="${REPOSITORY}">Source, documentation, records</a>`;
} else {
  links.hidden = true;
}
