// What a visitor waits for: the size of the wasm, and the time from load to the first maps. After `bash web/build.sh`:
//
//   node tests/web/record.js [REPEATS] >benches/record/web/DATE.txt

import { readFileSync } from "node:fs";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { launch, maps, open, serve } from "./support.js";

const repeats = Number(process.argv[2] ?? 5);
const bytes = readFileSync(new URL("../../web/page/pkg/diffattn_bg.wasm", import.meta.url));
const kB = (buffer) => `${(buffer.length / 1000).toFixed(0)} kB`;
console.log("node tests/web/record.js");
console.log(`wasm: ${kB(bytes)}, gzip ${kB(gzipSync(bytes, { level: 9 }))}, brotli ${kB(brotliCompressSync(bytes))}`);

const server = await serve();
const browser = await launch();
console.log(`Chromium ${browser.version()}, from this machine's own server`);
const times = [];
for (let i = 0; i < repeats; i++) {
  const { tab, context } = await open(browser, server.url);
  await maps(tab);
  const line = await tab.textContent("#engine");
  if (i === 0) console.log(line);
  times.push(await tab.evaluate(() => ["engine", "first-map"].map((name) => performance.getEntriesByName(name)[0].startTime)));
  await context.close();
}
for (const [what, at] of [
  ["load to adapter", ([engine]) => engine],
  ["adapter to first maps", ([engine, first]) => first - engine],
]) {
  const all = times.map(at).map(Math.round);
  const sorted = all.toSorted((a, b) => a - b);
  console.log(`${what}: first ${all[0]} ms, median ${sorted[sorted.length >> 1]} ms of ${all.join(", ")}`);
}
await browser.close();
server.close();
