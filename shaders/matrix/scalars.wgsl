// Workgroup memory in scalars, since Metal loads matrices from a pointer to a scalar only.
const CELL: u32 = 1u;

var<workgroup> wg_a: array<f16, A_SLOTS>;
var<workgroup> wg_b: array<f16, B_SLOTS>;
var<workgroup> wg_c: array<f32, C_SLOTS>;

fn put_a(slot: u32, x: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        wg_a[slot + i] = x[i];
    }
}

fn put_b(slot: u32, x: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        wg_b[slot + i] = x[i];
    }
}

fn get_c(slot: u32) -> vec4<f32> {
    return vec4<f32>(wg_c[slot], wg_c[slot + 1u], wg_c[slot + 2u], wg_c[slot + 3u]);
}

fn put_c(slot: u32, x: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        wg_c[slot + i] = x[i];
    }
}
