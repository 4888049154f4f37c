// C as it is.
fn write_quad(row: u32, quad: u32, x: vec4<f32>) {
    store_c(params.c_base + row * params.c_stride + quad, x);
}
