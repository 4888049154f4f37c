// Workgroup memory in vectors of four: 8 and 16 bytes at a time. Matrices are loaded from a pointer to a vector, in strides
// of vectors, which SPIR-V allows and Metal does not.
const CELL: u32 = 4u;

var<workgroup> wg_a: array<vec4<f16>, A_SLOTS / 4u>;
var<workgroup> wg_b: array<vec4<f16>, B_SLOTS / 4u>;
var<workgroup> wg_c: array<vec4<f32>, C_SLOTS / 4u>;

fn put_a(slot: u32, x: vec4<f16>) {
    wg_a[slot / 4u] = x;
}

fn put_b(slot: u32, x: vec4<f16>) {
    wg_b[slot / 4u] = x;
}

fn get_c(slot: u32) -> vec4<f32> {
    return wg_c[slot / 4u];
}

fn put_c(slot: u32, x: vec4<f32>) {
    wg_c[slot / 4u] = x;
}
