// C with a bias for each column.
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;

fn write_quad(row: u32, quad: u32, x: vec4<f32>) {
    store_c(params.c_base + row * params.c_stride + quad, x + bias[quad]);
}
