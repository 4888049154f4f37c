// The score of q·k in log2 units, where it cannot come near the sentinels: 256 products of f16, and a scale of at most
// LARGEST_SCALE (src/matrix.rs). params.scale is scale · log2(e).

fn score4(qk: vec4<f32>) -> vec4<f32> {
    return qk * params.scale;
}
