// A static server for the page, and a browser with WebGPU on a software adapter.

import { createServer } from "node:http";
import { mkdirSync, readFileSync } from "node:fs";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const page = fileURLToPath(new URL("../../web/page/", import.meta.url));
export const out = fileURLToPath(new URL("out/", import.meta.url));
mkdirSync(out, { recursive: true });

const TYPES = {
  ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
  ".wasm": "application/wasm", ".json": "application/json", ".wgsl": "text/plain",
};

// Serves the page's folder, and what `extra` adds under a path: { "/kernels/": "a folder" }.
export function serve(extra = {}) {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const [prefix, folder] = Object.entries(extra).find(([prefix]) => path.startsWith(prefix)) ?? ["/", page];
    const file = join(folder, path.slice(prefix.length) || "index.html");
    try {
      response.setHeader("content-type", TYPES[extname(file)] ?? "application/octet-stream");
      response.end(readFileSync(file));
    } catch {
      response.writeHead(404).end();
    }
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      resolve({ url: `http://localhost:${server.address().port}/`, close: () => server.close() });
    });
  });
}

// The flag lifts the rounding of timestamps too; a test rounds them itself.
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
    ],
  });
}

// Opens the page; `faults` collects console errors and exceptions. `before` runs in the page before its own scripts.
export async function open(browser, url, { before, argument, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const tab = await context.newPage();
  // A software driver compiles for seconds, on a busy machine for minutes.
  tab.setDefaultTimeout(240000);
  const faults = [];
  tab.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  tab.on("pageerror", (error) => faults.push(String(error)));
  if (before) await tab.addInitScript(before, argument);
  await tab.goto(url);
  return { tab, faults, context };
}

// Waits for the first maps.
export const maps = (tab) => tab.waitForFunction(() => performance.getEntriesByName("first-map").length > 0);
