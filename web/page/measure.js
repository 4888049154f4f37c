// The fourth panel: the quick suite on the visitor's GPU.

import { number } from "./draw.js";
import { failed } from "./engine.js";
import { plot } from "./plot.js";
import { download } from "./safetensors.js";

const $ = (id) => document.getElementById(id);

export function startMeasure(page, repository) {
  const { wasm } = page;
  let stopped, rows, limits, jsonl;

  async function measure() {
    const engine = page.engine;
    const longest = Number($("longest").value);
    const count = wasm.suiteSize(longest);
    [rows, limits, jsonl, stopped] = [[], null, null, false];
    $("measure-table").tBodies[0].replaceChildren();
    $("measure-result").hidden = true;
    $("copied").textContent = "";
    busy(true);
    const observer = {
      limits: (json) => {
        limits = JSON.parse(json);
        $("measure-limits").textContent = describeLimits();
      },
      stage: (text, index) => {
        $("measure-bar").value = (index + 1) / (count + 2);
        say("", `${text} …`);
      },
      row: (json) => {
        rows.push(JSON.parse(json));
        show();
      },
      // A hidden tab is throttled, and its times mean nothing.
      stop: () => stopped || document.hidden || engine !== page.engine,
    };
    try {
      jsonl = await wasm.measure(engine, longest, navigator.userAgent, page.adapter, page.software, observer);
      const header = JSON.parse(jsonl.split("\n", 1)[0]);
      const wrong = rows.filter((row) => !row.passed).length;
      if (wrong) say("bad", `${wrong} of ${rows.length} kernels gave wrong results and were not timed. Please report it.`);
      else if (header.limits_after === null) say("", document.hidden ? "Stopped, because the tab was hidden." : "Stopped. The record holds what was measured.");
      else if (header.throttled) say("bad", "Done, but the GPU slowed down meanwhile: compare these times with nothing.");
      else say("good", "Done.");
      show();
    } catch (error) {
      say("bad", error.message);
      failed(page, error);
    } finally {
      busy(false);
    }
  }

  function describeLimits() {
    const { fma_f32_tflops, fma_f16_tflops, read_gb_s, copy_gb_s } = limits;
    const known = [
      fma_f32_tflops && `${rate(fma_f32_tflops)} TFLOP/s in f32 registers`,
      fma_f16_tflops && `${rate(fma_f16_tflops)} TFLOP/s in f16`,
      read_gb_s && `${number(read_gb_s, 0)} GB/s reading`,
      copy_gb_s && `${number(copy_gb_s, 0)} GB/s copying`,
    ];
    return `What your GPU can do, measured here: ${known.filter(Boolean).join(", ")}.`;
  }

  const shape = ({ batch, q_len, kv_len, heads, kv_heads, head_dim, causal }) =>
    `b${batch} q${q_len} kv${kv_len} h${heads}/${kv_heads} d${head_dim}${causal ? " causal" : ""}`;
  // Software drivers and the largest GPUs differ by a million.
  const rate = (tflops) => Number(tflops.toPrecision(3)).toString();
  const time = (ns) => (ns >= 1e6 ? `${number(ns / 1e6, ns < 1e7 ? 2 : 1)} ms` : `${number(ns / 1e3, 1)} µs`);

  function show() {
    $("measure-result").hidden = !rows.length;
    $("measure-table").tBodies[0].replaceChildren(
      ...rows.map((row) => {
        const tr = document.createElement("tr");
        const timed = row.passed;
        const cells = [
          row.label, `${row.op} ${row.form} ${shape(row)} ${row.dtype}`, timed ? time(row.median_ns) : "–", timed ? rate(row.tflops) : "–",
          timed && row.bound_by ? `${number(row.pct_of_limit, 0)} % (${row.bound_by})` : "–", row.passed ? "pass" : "FAIL",
        ];
        cells.forEach((text, index) => {
          const cell = tr.insertCell();
          cell.textContent = text;
          cell.className = index > 1 && index < 5 ? "number" : index === 5 ? (row.passed ? "right" : "wrong") : "";
        });
        return tr;
      }),
    );
    const series = new Map();
    for (const row of rows.filter((row) => row.passed && row.op === "forward" && row.form === "fused")) {
      const name = `${row.path}, head_dim ${row.head_dim}`;
      series.set(name, [...(series.get(name) ?? []), { x: row.kv_len, y: row.tflops }]);
    }
    $("plot").innerHTML = plot(series, limits?.fma_f32_tflops);
    $("copy").disabled = $("download").disabled = !jsonl;
    $("issue").hidden = !(jsonl && repository);
    if (jsonl && repository) $("issue").href = issue();
  }

  // One row for each case, under a line that says on what.
  function markdown() {
    const header = JSON.parse(jsonl.split("\n", 1)[0]);
    const lines = rows.filter((row) => row.passed).map((row) => {
      const spread = (row.p90_ns - row.p10_ns) / 2;
      const cells = [
        header.adapter || "unknown", header.backend, `${row.op} ${row.form}`, row.path, shape(row), row.dtype, `${time(row.median_ns)} ± ${time(spread)}`,
        rate(row.tflops), row.bound_by ? `${row.pct_of_limit.toFixed(0)} % (${row.bound_by})` : "–", row.timer, row.max_err.toExponential(1),
      ];
      return `| ${cells.join(" | ")} |`;
    });
    const titles = ["GPU", "backend", "what", "path", "shape", "dtype", "median", "TFLOP/s", "of own limit", "timer", "error"];
    return [
      `diffattn ${header.version}, suite ${header.suite} v${header.suite_version}, ${header.browser ?? header.os}`, "",
      `| ${titles.join(" | ")} |`, `|${"---|".repeat(titles.length)}`, ...lines, "",
    ].join("\n");
  }

  // Addresses are cut off at about 8 kB; the record itself is attached by hand.
  function issue() {
    const title = `Measured: ${page.adapter ?? "a GPU"}`;
    const body = `${markdown().slice(0, 3500)}\n\nPlease attach the record (Download the record).`;
    return `${repository}/issues/new?${new URLSearchParams({ title, body })}`;
  }

  function say(kind, text) {
    $("measure-verdict").className = `verdict ${kind}`;
    $("measure-verdict").textContent = text;
  }

  function busy(on) {
    $("measure-go").disabled = on || !page.engine.isGpu;
    $("longest").disabled = on;
    $("measure-stop").hidden = $("measure-bar").hidden = !on;
  }

  // Sizes that would not fit are shown, but not to be chosen.
  function offer() {
    $("measure-go").disabled = !page.engine.isGpu;
    const memory = (navigator.deviceMemory ?? 4) * 2 ** 30;
    const refused = [];
    const options = [...wasm.suiteLengths()].map((length) => {
      const reason = page.engine.isGpu ? page.engine.refuses(length, memory) : undefined;
      if (reason) refused.push(`${length} words: ${reason}`);
      const option = new Option(`${length} words`, length);
      option.disabled = Boolean(reason);
      return option;
    });
    $("longest").replaceChildren(...options);
    const fitting = options.filter((option) => !option.disabled);
    // As long as is quick on most devices.
    (fitting.find((option) => Number(option.value) >= 1024) ?? fitting.at(-1) ?? options[0]).selected = true;
    if (!fitting.length) $("measure-go").disabled = true;
    $("measure-note").textContent = page.engine.isGpu ? refused.join(" ") : "There is no GPU to measure.";
  }

  $("measure-go").onclick = measure;
  $("measure-stop").onclick = () => (stopped = true);
  $("copy").onclick = async () => {
    await navigator.clipboard.writeText(markdown());
    $("copied").textContent = "Copied.";
  };
  $("download").onclick = () => download("diffattn-bench.jsonl", new Blob([jsonl], { type: "application/jsonl" }));
  return { engineChanged: offer };
}
