import { serve, launch, open, maps } from "./support.js";
const s = await serve(); const b = await launch();
const { tab, faults } = await open(b, s.url + "icon.svg");
const r = await tab.evaluate(async () => {
  const w = await import("/pkg/diffattn.js"); await w.default();
  const gpu = await w.openGpu(() => {});
  const res = [];
  for (const i of [1, 2, 4]) {
    const t0 = performance.now();
    const rows = await w.checkProblem(gpu, i);
    res.push(performance.now() - t0, ...rows.map((r) => [r.label, r.shape, r.tensor, r.error, r.bound, r.passed].join(" ")));
  }
  return res;
});
console.log(r, faults); await b.close(); s.close();
