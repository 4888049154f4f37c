// Starts the page: finds out who can compute, and gives it to the panels.

import init, * as wasm from "./pkg/diffattn.js";
import { openEngine } from "./engine.js";
import { startIdea } from "./idea.js";
import { startPairing } from "./pairing.js";
import { startCheck } from "./check.js";

// The page's own repository, for the link at the end and prefilled issues. Empty until there is one: then they are hidden.
export const REPOSITORY = "";

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
panels.push(startIdea(page), startPairing(page), startCheck(page));
await page.restart();

const links = document.getElementById("links");
if (REPOSITORY) {
  links.innerHTML = `<a href="${REPOSITORY}">Source, documentation, records</a>`;
} else {
  links.hidden = true;
}
