// Runs in the page: an exported kernel on WebGPU, from its manifest alone, against attention written out in float64.

export async function run(folder) {
  const manifest = await (await fetch(`${folder}manifest.json`)).json();
  const kernel = manifest.kernels.find(({ op, path, headers }) => op === "forward" && path === "portable" && headers.web !== null);
  const source = kernel.headers.web + (await (await fetch(folder + kernel.file)).text());

  const [batch, q_len, kv_len, heads, kv_heads] = [1, 21, 45, 4, 2];
  const { head_dim, value_dim } = kernel;
  const group = heads / kv_heads;
  let seed = 1;
  const random = (length, range) =>
    Float32Array.from({ length }, () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return range * (seed / 2 ** 31 - 1);
    });
  // Rows of a tensor: tokens, heads, elements.
  const rows = {
    q: [q_len, 2 * heads, head_dim], k: [kv_len, kv_heads, head_dim], v: [kv_len, kv_heads, value_dim],
    lam: [q_len, heads, 1], out: [q_len, heads, value_dim], lse: [q_len, 2 * heads, 1],
  };
  const count = (name) => batch * rows[name].reduce((product, extent) => product * extent);
  const tensors = Object.fromEntries(["q", "k", "v", "lam"].map((name) => [name, random(count(name), name === "lam" ? 3 : 2)]));

  // The uniform block.
  const block = manifest.uniform_blocks[kernel.bindings.find(({ type }) => type === "uniform").block];
  const params = new DataView(new ArrayBuffer(block.size));
  const put = (name, value, place = 0) => {
    const { offset, type } = block.fields.find((field) => field.name === name);
    const set = { f32: "setFloat32", i32: "setInt32" }[type] ?? "setUint32";
    params[set](offset + 4 * place, value, true);
  };
  const sizes = { group, q_len, kv_len };
  const tilesOf = ({ of, per }) => Math.ceil(of.reduce((product, name) => product * sizes[name], 1) / per);
  const [head_tiles, q_tiles] = [tilesOf(kernel.grid.head_tiles), tilesOf(kernel.grid.q_tiles)];
  const tiles = batch * kv_heads * head_tiles * q_tiles;
  const workgroups = Math.ceil(tiles / kernel.grid.tiles_per_workgroup);
  const scale = Math.LOG2E / Math.sqrt(head_dim);
  const diagonal = kv_len - q_len;
  const numbers = { batch, kv_heads, head_tiles, q_tiles, tiles, grid_width: workgroups, group, q_len, kv_len, diagonal, scale };
  for (const [name, value] of Object.entries(numbers)) put(name, value);

  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter.requestDevice();
  device.pushErrorScope("validation");
  const buffers = {};
  for (const { name, type, unit, elements } of kernel.bindings) {
    if (type === "uniform") continue;
    const [seq, heads, dim] = rows[name];
    // lse has its heads outside of its tokens.
    const [bySeq, byHead] = name === "lse" ? [1, seq] : [heads * dim, dim];
    [0, seq * heads * dim, bySeq, byHead].forEach((stride, place) => put(name, stride / elements, place));
    const size = (count(name) / elements) * unit;
    buffers[name] = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
    device.queue.writeBuffer(buffers[name], 0, tensors[name] ?? new Float32Array(size / 4).fill(NaN));
  }
  buffers.params = device.createBuffer({ size: block.size, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
  device.queue.writeBuffer(buffers.params, 0, params.buffer);

  const module = device.createShaderModule({ code: source });
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: kernel.entry_point } });
  const entries = kernel.bindings.map(({ name, binding }) => ({ binding, resource: { buffer: buffers[name] } }));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(workgroups);
  pass.end();
  const staging = device.createBuffer({ size: buffers.out.size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
  encoder.copyBufferToBuffer(buffers.out, 0, staging, 0, staging.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const out = new Float32Array(staging.getMappedRange());
  const error = (await device.popErrorScope())?.message;

  let worst = 0;
  for (let i = 0; i < q_len; i++) {
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / group);
      const keys = i + diagonal + 1;
      const maps = [0, 1].map((member) => {
        const scores = Array.from({ length: keys }, (_, j) => {
          let sum = 0;
          for (let d = 0; d < head_dim; d++) {
            sum += tensors.q[(i * 2 * heads + 2 * head + member) * head_dim + d] * tensors.k[(j * kv_heads + kvHead) * head_dim + d];
          }
          return sum / Math.sqrt(head_dim);
        });
        const most = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight);
        return weights.map((weight) => weight / total);
      });
      const gate = 1 / (1 + Math.exp(-tensors.lam[i * heads + head]));
      for (let d = 0; d < value_dim; d++) {
        let expected = 0;
        for (let j = 0; j < keys; j++) {
          expected += (maps[0][j] - gate * maps[1][j]) * tensors.v[(j * kv_heads + kvHead) * value_dim + d];
        }
        const off = Math.abs(out[(i * heads + head) * value_dim + d] - expected);
        worst = Math.max(worst, Number.isNaN(off) ? Infinity : off);
      }
    }
  }
  return { error, worst };
}
