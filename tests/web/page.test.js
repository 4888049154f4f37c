// The page as a visitor has it, in a real browser with a WebGPU adapter. Run by tests/run.sh: node --test tests/web

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launch, maps, open, out, serve } from "./support.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const root = fileURLToPath(new URL("../../", import.meta.url));
const command = process.env.DIFFATTN ?? join(root, "target/release/diffattn");
const scratch = mkdtempSync(join(tmpdir(), "diffattn-web-"));
const kernels = join(scratch, "kernels");

let browser, server;
// Of the tests that need no page of their own: compiling kernels on a software driver takes seconds.
let tab, faults;

before(async () => {
  execFileSync(command, ["export", "--out", kernels, "--head-dim", "64", "--mask", "causal", "--lse"]);
  server = await serve({ "/kernels/": kernels });
  browser = await launch();
  ({ tab, faults } = await open(browser, server.url));
  await maps(tab);
});
// Another scene on the shared page.
async function scene(hash) {
  await tab.goto("about:blank");
  await tab.goto(server.url + hash);
  await maps(tab);
}
after(async () => {
  await browser?.close();
  server?.close();
});

const text = (tab, id) => tab.textContent(`#${id}`);
// Sets a slider as a hand would.
const slide = (tab, id, value) =>
  tab.locator(`#${id}`).evaluate((input, value) => {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }, String(value));
// The numbers of the bars: three rows (answer, sink, noise) of ordinary, V1, V2.
const bars = (tab) =>
  tab.$$eval("#bars tbody tr", (rows) =>
    rows.map((row) => [...row.querySelectorAll(".value")].map((cell) => Number(cell.textContent.replace("−", "-")))),
  );
const gateIs = (tab, sigma) => tab.waitForFunction((sigma) => document.getElementById("gate-value").textContent === sigma, sigma);

test("the page computes its maps on the GPU without a fault", async () => {
  assert.match(await text(tab, "engine"), /^Computed live by a software driver: .*swiftshader/i);
  assert.match(await tab.getAttribute("#map-v2", "data-label"), /^diffattn\.forward\.f32\.causal\.d64v32\..*portable$/);
  const [answer, sink, noise] = await bars(tab);
  // Ordinary attention sums to one; the difference keeps the answer and loses most of the rest.
  assert.ok(Math.abs(answer[0] + sink[0] + noise[0] - 1) < 0.02, `${[answer, sink, noise]}`);
  assert.ok(answer[2] > 0.8 * answer[0] && noise[2] < 0.5 * noise[0] && Math.abs(sink[2]) < 0.5 * sink[0], `${[answer, sink, noise]}`);
  assert.deepEqual(faults, []);
});

test("the sliders change the maps as the mathematics says", async () => {
  await slide(tab, "lam", -6);
  await gateIs(tab, "0.00");
  let rows = await bars(tab);
  for (const row of rows) assert.ok(Math.abs(row[2] - row[0]) <= 0.011, "a shut gate is ordinary attention");
  await slide(tab, "lam", 6);
  await gateIs(tab, "1.00");
  rows = await bars(tab);
  const total = rows[0][2] + rows[1][2];
  assert.ok(rows[1][2] < 0, `an open gate subtracts more than there is: ${rows}`);
  assert.ok(total < 0.5, "weights sum to 1 − σ");
  // At σ* the sink is gone, once both maps share it to the last bit of its noise.
  await slide(tab, "shared", 1);
  await tab.waitForFunction(() => location.hash.includes("shared=1&"));
  await tab.click("#star-go");
  await tab.waitForFunction(() => Math.abs(Number(document.querySelectorAll("#bars tbody tr")[1].querySelectorAll(".value")[2].textContent.replace("−", "-"))) <= 0.02);
  await slide(tab, "n", 64);
  await tab.waitForFunction(() => document.querySelectorAll("#strip-v2 span").length === 64 && document.getElementById("map-v2").dataset.label.includes(".d64."));
  await tab.check('#presets input[value="noise"]', { force: true });
  await gateIs(tab, "1.00");
  await tab.waitForFunction(() => Number(document.querySelectorAll("#bars tbody tr")[2].querySelectorAll(".value")[2].textContent) <= 0.05);
  assert.match(tab.url(), /preset=noise/);
  assert.deepEqual(faults, []);
});

test("what the page computed is what the command computes", async () => {
  // More keys than one tile has, and a rest.
  await scene("#preset=apart&n=48&lam1=-1.25&lam2=3");
  const [download] = await Promise.all([tab.waitForEvent("download"), tab.click("#save")]);
  const file = join(scratch, "scene.safetensors");
  await download.saveAs(file);
  // --compare holds the page's out, lse and a2 against the command's, within the bound, and fails otherwise.
  const attend = (input) =>
    execFileSync(command, ["attend", input, "-o", join(scratch, "out.safetensors"), "--engine", "cpu", "--compare"], { encoding: "utf8" });
  const said = attend(file);
  for (const tensor of ["out", "lse", "a2"]) assert.match(said, new RegExp(`^ *${tensor}\\b.*pass`, "m"));
  // One wrong number is noticed.
  const bytes = readFileSync(file);
  const header = Number(bytes.readBigUInt64LE(0));
  const { out: tensor } = JSON.parse(bytes.subarray(8, 8 + header));
  bytes.writeFloatLE(bytes.readFloatLE(8 + header + tensor.data_offsets[0]) + 0.5, 8 + header + tensor.data_offsets[0]);
  const { writeFileSync } = await import("node:fs");
  writeFileSync(file, bytes);
  assert.throws(() => attend(file));
});

test("keyboard and pointer read cells", async () => {
  await scene("");
  await tab.focus("#map-v2");
  await tab.keyboard.press("ArrowRight");
  assert.match(await text(tab, "cell"), /^“is” reads “42”: 0\.\d+ − 0\.\d+ · 0\.\d+ = /);
  await tab.hover("#map-v2", { position: { x: 20, y: 2 } });
  assert.match(await text(tab, "cell"), /comes later|reads/);
});

test("pairing across KV heads adds noise, except with one KV head", async () => {
  await tab.locator("#pairing").scrollIntoViewIfNeeded();
  const noise = async () => {
    await tab.waitForFunction(() => document.querySelector("#wiring-wrong .sums").textContent);
    return tab.$$eval(".wirings .sums", (lines) => lines.map((line) => Number(line.textContent.match(/noise ([\d.]+)/)[1])));
  };
  const [right, wrong] = await noise();
  assert.ok(wrong > 1.5 * right, `${[right, wrong]}`);
  await tab.check('#kv-heads input[value="1"]', { force: true });
  await tab.waitForFunction(() => document.getElementById("pairing-text").textContent.startsWith("With one"));
  const [one, same] = await noise();
  assert.equal(one, same);
});

// The whole check is for real GPUs: here every kernel takes seconds to compile.
test("kernels pass the check, which can be stopped", async () => {
  await tab.click("#check-go");
  await tab.waitForFunction(() => document.querySelectorAll("#check-table tbody tr").length >= 4);
  await tab.click("#check-stop");
  await tab.waitForSelector("#check-bar", { state: "hidden" });
  assert.match(await text(tab, "check-verdict"), /^Stopped. \d+ results, all within their bounds/);
  const rows = await tab.$$eval("#check-table tbody tr", (rows) => rows.map((row) => row.textContent));
  // Forward and gradients, plain and tiled.
  for (const part of ["forward", "backward_dkv", "naive", "portable"]) assert.ok(rows.some((row) => row.includes(part)), part);
  assert.ok(rows.every((row) => row.endsWith("pass")));
  assert.deepEqual(faults, []);
});

test("a wrong result fails the check", async () => {
  // The GPU's answers are spoilt on their way back.
  const spoil = () => {
    const { getMappedRange } = GPUBuffer.prototype;
    GPUBuffer.prototype.getMappedRange = function (...args) {
      const range = getMappedRange.apply(this, args);
      const values = new Float32Array(range);
      for (let i = 0; i < values.length; i += 7) values[i] *= 1.5;
      return range;
    };
  };
  const { tab, context } = await open(browser, server.url, { before: spoil });
  await maps(tab);
  await tab.click("#check-go");
  await tab.waitForSelector("#check-table td.wrong", { state: "attached" });
  await tab.click("#check-stop");
  await tab.waitForSelector("#check-verdict.bad");
  await context.close();
});

// Chrome rounds timestamps to 100 µs, but not with the flag that this browser runs with.
const rounded = () => {
  const { getMappedRange } = GPUBuffer.prototype;
  GPUBuffer.prototype.getMappedRange = function (...args) {
    const range = getMappedRange.apply(this, args);
    if (this.label === "diffattn.bench.staging") {
      const stamps = new BigUint64Array(range);
      stamps.forEach((stamp, i) => (stamps[i] = (stamp / 100000n) * 100000n));
      window.rounded = (window.rounded ?? 0) + 1;
    }
    return range;
  };
};

test("the benchmark measures a tiny suite with rounded timers, and its record can be taken away", async () => {
  const { tab, faults, context } = await open(browser, server.url, { before: rounded });
  await maps(tab);
  await tab.selectOption("#longest", "256");
  await tab.click("#measure-go");
  await tab.waitForSelector("#measure-bar", { state: "hidden" });
  const [download] = await Promise.all([tab.waitForEvent("download"), tab.click("#download")]);
  const [header, ...rows] = readFileSync(await download.path(), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  assert.equal(header.suite, "quick");
  assert.match(header.adapter, /swiftshader/);
  assert.equal(header.device_type, "cpu");
  assert.ok(header.limits_before.fma_f32_tflops > 0 && header.limits_after !== null);
  assert.ok(header.skipped.some(({ reason }) => reason.includes("CPU engine")));
  assert.ok(rows.length >= 1);
  for (const row of rows) {
    assert.ok(row.passed && row.median_ns > 0 && row.kv_len <= 256, JSON.stringify(row));
    // What lasts long enough that rounding does not matter, or the host's clock where the timestamps made no sense.
    if (row.timer === "gpu-100us") assert.ok(row.median_ns * row.inner_repeats >= 10e6, JSON.stringify(row));
    else assert.equal(row.timer, "wall");
  }
  assert.ok(await tab.evaluate(() => window.rounded > 0));
  assert.equal(await tab.locator("#plot svg").count(), 1);
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await tab.click("#copy");
  assert.match(await tab.evaluate(() => navigator.clipboard.readText()), /\| GPU \|.*\n.*\n\| .*swiftshader/);
  await tab.locator("#measure").screenshot({ path: join(out, "measure.png") });
  assert.deepEqual(faults, []);
  await context.close();
});

test("a size that cannot fit is not offered", async () => {
  const small = () => Object.defineProperty(Navigator.prototype, "deviceMemory", { get: () => 0.5 });
  const { tab, context } = await open(browser, server.url, { before: small });
  await tab.waitForFunction(() => document.getElementById("engine").className === "engine gpu");
  assert.match(await text(tab, "measure-note"), /256 words: needs \d+ MB/);
  assert.ok(await tab.isDisabled("#measure-go"));
  await context.close();
});

const STATES = [
  ["an insecure page", "insecure", /https/, () => Object.defineProperty(window, "isSecureContext", { value: false })],
  ["no WebGPU", "missing", /Firefox from 141/, () => Object.defineProperty(Navigator.prototype, "gpu", { value: undefined })],
  ["no adapter", "NoAdapter", /blocked drivers/, () => (GPU.prototype.requestAdapter = async () => null)],
  ["a limit that is too small", "Limit", /max_compute_workgroup_storage_size.*needed.*available/, () => {
    Object.defineProperty(GPUSupportedLimits.prototype, "maxComputeWorkgroupStorageSize", { get: () => 256 });
    Object.defineProperty(GPUSupportedLimits.prototype, "maxStorageBuffersPerShaderStage", { get: () => 8 });
  }],
];
for (const [name, kind, words, before] of STATES) {
  test(`${name} is said in words, and the CPU engine takes over`, async () => {
    const { tab, context } = await open(browser, server.url, { before });
    await tab.waitForSelector(`#trouble[data-kind="${kind}"]`);
    await maps(tab);
    assert.match(await text(tab, "trouble"), words);
    assert.match(await text(tab, "engine"), /CPU engine/);
    assert.equal(await tab.getAttribute("#map-v2", "data-label"), "cpu");
    const [answer] = await bars(tab);
    assert.ok(answer[2] > 0.2);
    assert.ok(await tab.isDisabled("#check-go"));
    await tab.screenshot({ path: join(out, `state-${kind}.png`) });
    await context.close();
  });
}

test("a lost device is said, and a new adapter is taken", async () => {
  const remember = () => {
    const { requestDevice } = GPUAdapter.prototype;
    window.devices = [];
    GPUAdapter.prototype.requestDevice = async function (...args) {
      const device = await requestDevice.apply(this, args);
      window.devices.push(device);
      return device;
    };
  };
  const { tab, context } = await open(browser, server.url, { before: remember });
  await maps(tab);
  await tab.evaluate(() => window.devices.at(-1).destroy());
  await tab.waitForSelector('#trouble[data-kind="DeviceLost"]');
  assert.match(await text(tab, "engine"), /CPU engine/);
  await slide(tab, "lam", 2);
  await gateIs(tab, "0.88");
  await tab.screenshot({ path: join(out, "state-lost.png") });
  await tab.click("#trouble-action");
  await tab.waitForFunction(() => document.getElementById("engine").className === "engine gpu");
  assert.ok(await tab.isHidden("#trouble"));
  assert.equal(await tab.evaluate(() => window.devices.length), 2);
  await slide(tab, "lam", -1);
  await gateIs(tab, "0.27");
  await context.close();
});

for (const [name, width, colorScheme] of [
  ["desktop-light", 1280, "light"],
  ["desktop-dark", 1280, "dark"],
  ["phone-light", 360, "light"],
  ["phone-dark", 360, "dark"],
]) {
  test(`accessible, and no wider than the screen: ${name}`, async () => {
    await tab.setViewportSize({ width, height: 800 });
    await tab.emulateMedia({ colorScheme });
    await tab.waitForTimeout(300);
    await tab.screenshot({ path: join(out, `${name}.png`), fullPage: true });
    assert.ok(await tab.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await tab.evaluate(axe);
    const { violations } = await tab.evaluate(() => window.axe.run());
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
    assert.deepEqual(found, []);
  });
}

test("an exported kernel runs from plain JavaScript, by its manifest alone", async () => {
  const { run } = await import("./manifest.js");
  const { error, worst } = await tab.evaluate(run, "/kernels/");
  assert.equal(error, undefined);
  // f32, against float64.
  assert.ok(worst < 1e-5, `${worst}`);
});
