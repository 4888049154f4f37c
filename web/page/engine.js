// Who computes, and what to say when it is not a GPU.

const $ = (id) => document.getElementById(id);

const BROWSERS =
  "Chrome and Edge have it from version 113 (on Android from 121, on Linux with recent Intel graphics), Safari from 26, " +
  "Firefox from 141 on Windows and 145 on Macs with Apple silicon.";
const CPU = "The maps below are computed by the CPU engine instead; checking and measuring need a GPU.";

const TROUBLE = {
  insecure: {
    title: "This page was not loaded securely",
    text: `Browsers offer WebGPU only over https and on localhost. ${CPU}`,
  },
  missing: { title: "This browser has no WebGPU", text: `${BROWSERS} ${CPU}` },
  NoAdapter: {
    title: "The browser found no GPU that it may use",
    text: `Its list of blocked drivers may say why (chrome://gpu, about:support), and a newer driver often helps. ${CPU}`,
  },
  Limit: { title: "A limit of this GPU is too small for the kernels", text: CPU },
  Shader: { title: "The driver refused a kernel", text: `That is a defect; please report it with the words below. ${CPU}` },
  OutOfMemory: { title: "The GPU is out of memory", text: "Choose a smaller size, or close other tabs.", action: "Start again" },
  DeviceLost: {
    title: "The GPU is gone",
    text: `The driver restarted, the device was removed, or something took too long. ${CPU}`,
    action: "Start again on a new adapter",
  },
  Error: { title: "Something went wrong", text: "That is a defect; please report it with the words below.", action: "Start again" },
};

// Shows what is wrong; `retry` is what the button does, where starting again may help.
export function trouble(kind, detail, retry) {
  const { title, text, action } = TROUBLE[kind] ?? TROUBLE.Error;
  $("trouble").hidden = false;
  $("trouble").dataset.kind = kind;
  $("trouble-title").textContent = title;
  $("trouble-text").textContent = text;
  $("trouble-detail").textContent = detail ?? "";
  const button = $("trouble-action");
  button.hidden = !(action && retry);
  button.textContent = action ?? "";
  button.onclick = retry;
}

// What an engine failed with, in words. Where the GPU cannot go on, the CPU engine takes over.
export function failed(page, error) {
  console.warn(error);
  const retry = () => page.restart();
  if (["Limit", "Shader", "NoAdapter", "DeviceLost"].includes(error.name) && page.engine.isGpu) {
    useCpu(page, error.name, error.message, error.name === "DeviceLost" ? retry : undefined);
    page.engineChanged();
  } else {
    trouble(error.name, error.message, retry);
  }
}

function useCpu(page, kind, detail, retry) {
  page.engine = page.wasm.openCpu();
  page.adapter = null;
  $("engine").className = "engine cpu";
  $("engine").textContent = "Computed by the CPU engine, in wasm on one thread.";
  trouble(kind, detail, retry);
}

// The GPU of the browser, or the CPU and why. Sets `page.engine`.
export async function openEngine(page) {
  $("trouble").hidden = true;
  const line = $("engine");
  if (!window.isSecureContext) return useCpu(page, "insecure");
  if (!navigator.gpu) return useCpu(page, "missing");
  line.textContent = "Looking for a GPU …";
  try {
    const engine = await page.wasm.openGpu((reason) => {
      if (page.engine !== engine) return; // given up before
      useCpu(page, "DeviceLost", reason, () => page.restart());
      page.engineChanged();
    });
    page.engine = engine;
    Object.assign(page, await describeAdapter());
    line.className = "engine gpu";
    const where = page.software ? "by a software driver" : "on your GPU";
    line.textContent = `Computed live ${where}: ${page.adapter} · ${engine.describe()}`;
  } catch (error) {
    useCpu(page, error.name, error.message);
  }
}

// wgpu does not pass on what browsers say about the adapter. What they leave out is left out.
async function describeAdapter() {
  const info = (await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }))?.info ?? {};
  const words = [...new Set([info.vendor, info.architecture, info.description].filter(Boolean))].join(" ");
  const software = Boolean(info.isFallbackAdapter) || /swiftshader|llvmpipe|basic render/i.test(words);
  return { adapter: words || "an adapter without a name", software };
}
