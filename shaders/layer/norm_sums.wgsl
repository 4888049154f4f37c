// DIFF V1, backward: the gradient of the norm's weight, and behind it that of λ; sums over all heads of all tokens.
//
// A workgroup owns four elements of the sums; its invocations take rows in turn and add up at the end, in a fixed order.
// Workgroup memory: 16 · THREADS bytes, in sum.wgsl. Numerics: f32.
// Source: "Differential Transformer" (Ye et al., 2024), differentiated.

@group(0) @binding(1) var<storage, read> a1: array<Elem4>;
@group(0) @binding(2) var<storage, read> a2: array<Elem4>;
@group(0) @binding(3) var<storage, read> lambda: array<Lambda>;
@group(0) @binding(4) var<storage, read> dout: array<Elem4>;
@group(0) @binding(5) var<storage, read> row: array<vec2<f32>>;          // of norm_backward.wgsl
@group(0) @binding(6) var<storage, read_write> sums: array<vec4<f32>>;  // of each quad; then λ's, with three zeros

fn term(i: u32, quad: u32) -> vec4<f32> {
    if (quad == params.quads) {
        return vec4<f32>(row[i].y, 0.0, 0.0, 0.0);
    }
    let at = i * params.quads + quad;
    let n = row[i].x * (unpack4(a1[at]) - lambda[0].value * unpack4(a2[at]));
    return params.factor * unpack4(dout[at]) * n;
}

fn write_sum(quad: u32, x: vec4<f32>) {
    sums[quad] = x;
}
