// Workgroup memory in vectors of four: 8 and 16 bytes at a time. Matrices are loaded from a pointer to a vector, in strides
// of vectors, which SPIR-V allows and Metal does not.
const CELL: u32 = 4u;

var<workgroup> wg_rows: array<vec4<f16>, ROW_SLOTS / 4u>;
var<workgroup> wg_kv: array<vec4<f16>, KV_SLOTS / 4u>;
var<workgroup> wg_score: array<vec4<f32>, ROWS * SCORE_STRIDE / 4u>;

fn put_row(slot: u32, x: vec4<f16>) {
    wg_rows[slot / 4u] = x;
}

fn put_kv(slot: u32, x: vec4<f16>) {
    wg_kv[slot / 4u] = x;
}

fn get_score(slot: u32) -> vec4<f32> {
    return wg_score[slot / 4u];
}

fn put_score(slot: u32, x: vec4<f32>) {
    wg_score[slot / 4u] = x;
}
