// Workgroup memory in scalars, since Metal loads matrices from a pointer to a scalar only.
const CELL: u32 = 1u;

var<workgroup> wg_rows: array<f16, ROW_SLOTS>;
var<workgroup> wg_kv: array<f16, KV_SLOTS>;
var<workgroup> wg_score: array<f32, ROWS * SCORE_STRIDE>;

fn put_row(slot: u32, x: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        wg_rows[slot + i] = x[i];
    }
}

fn put_kv(slot: u32, x: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        wg_kv[slot + i] = x[i];
    }
}

fn get_score(slot: u32) -> vec4<f32> {
    return vec4<f32>(wg_score[slot], wg_score[slot + 1u], wg_score[slot + 2u], wg_score[slot + 3u]);
}

fn put_score(slot: u32, x: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        wg_score[slot + i] = x[i];
    }
}
