// Sums of the columns of an f32 matrix: the gradient of λ's bias.
//
// A workgroup owns four columns; its invocations take rows in turn and add up at the end, in a fixed order.
// Workgroup memory: 16 · THREADS bytes, in sum.wgsl. Numerics: f32.

@group(0) @binding(1) var<storage, read> matrix: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<f32>>;

fn term(i: u32, quad: u32) -> vec4<f32> {
    return matrix[i * params.quads + quad];
}

fn write_sum(quad: u32, x: vec4<f32>) {
    sums[quad] = x;
}
