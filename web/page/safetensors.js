// A scene as a file that the command reads: `diffattn attend FILE -o OUT --compare`.

export function encode(tensors, metadata) {
  const header = { __metadata__: metadata };
  let end = 0;
  for (const { name, shape, values } of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [end, (end += values.byteLength)] };
  }
  let text = new TextEncoder().encode(JSON.stringify(header));
  // Padded with spaces, so that the tensors are aligned.
  const padded = new Uint8Array(Math.ceil(text.length / 8) * 8).fill(0x20);
  padded.set(text);
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(padded.length), true);
  return new Blob([length.buffer, padded, ...tensors.map(({ values }) => values)], { type: "application/octet-stream" });
}

export function download(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export function saveScene(idea, maps, n) {
  const [q, k, v] = idea.tensors();
  const [lam, out, lse, a2] = maps.tensors();
  const heads = lam.length / n;
  const kvHeads = v.length / n / n;
  const headDim = k.length / n / kvHeads;
  const tensors = [
    { name: "q", shape: [1, n, 2 * heads, headDim], values: q },
    { name: "k", shape: [1, n, kvHeads, headDim], values: k },
    { name: "v", shape: [1, n, kvHeads, n], values: v },
    { name: "lam", shape: [1, n, heads], values: lam },
    { name: "out", shape: [1, n, heads, n], values: out },
    { name: "lse", shape: [1, 2 * heads, n], values: lse },
    { name: "a2", shape: [1, n, heads, n], values: a2 },
  ];
  download("scene.safetensors", encode(tensors, { causal: "true" }));
}
