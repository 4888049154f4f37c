// The third panel: every kernel against the float64 reference.

import { failed } from "./engine.js";

const $ = (id) => document.getElementById(id);

export function startCheck(page) {
  const { wasm } = page;
  let stopped;

  async function check() {
    const engine = page.engine;
    const count = wasm.checkCount();
    const body = $("check-table").tBodies[0];
    const started = performance.now();
    let [done, wrong] = [0, 0];
    stopped = false;
    body.replaceChildren();
    busy(true);
    try {
      for (let index = 0; index < count && !stopped && engine === page.engine; index++) {
        $("check-bar").value = index / count;
        say("", `Problem ${index + 1} of ${count} …`);
        // Lets the page breathe before the reference computes.
        await new Promise((resolve) => setTimeout(resolve));
        for (const row of await wasm.checkProblem(engine, index)) {
          done += 1;
          wrong += !row.passed;
          body.append(line(row));
        }
      }
      if (engine !== page.engine) {
        say("bad", "The GPU went away before the end.");
      } else if (wrong) {
        say("bad", `${wrong} of ${done} results are wrong on this GPU. Please report it with the table below.`);
      } else {
        const seconds = Math.round((performance.now() - started) / 1000);
        say(stopped ? "" : "good", `${stopped ? "Stopped. " : ""}${done} results, all within their bounds. (${seconds} s)`);
      }
    } catch (error) {
      say("bad", error.message);
      failed(page, error);
    } finally {
      busy(false);
    }
  }

  function line({ label, shape, tensor, error, bound, passed }) {
    const row = document.createElement("tr");
    const cells = [label, shape, tensor, error.toExponential(1), bound.toExponential(1), passed ? "pass" : "FAIL"];
    cells.forEach((text, index) => {
      const cell = row.insertCell();
      cell.textContent = text;
      if (index === 3 || index === 4) cell.className = "number";
      if (index === 5) cell.className = passed ? "right" : "wrong";
    });
    return row;
  }

  function say(kind, text) {
    $("check-verdict").className = `verdict ${kind}`;
    $("check-verdict").textContent = text;
  }

  function busy(on) {
    $("check-go").disabled = on;
    $("check-stop").hidden = $("check-bar").hidden = !on;
    $("check-details").hidden = false;
  }

  $("check-go").onclick = check;
  $("check-stop").onclick = () => (stopped = true);
  return {
    engineChanged() {
      $("check-go").disabled = !page.engine.isGpu;
      if (!page.engine.isGpu) say("", "There is no GPU to check.");
      else say("", "");
    },
  };
}
