// How the KEY_LANES invocations that share rows exchange row maxima, row sums and weights: through workgroup memory.
// Workgroup memory: 16 · (THREADS · ROW_QUADS + ROW_LANES · (KEYS · ROW_QUADS + 1)) bytes.

var<workgroup> wg_reduce: array<vec4<f32>, THREADS * ROW_QUADS>;
// One vec4 holds four rows at one key; padded by one for each row lane, so that they fall into different banks.
var<workgroup> wg_weight: array<vec4<f32>, ROW_LANES * WEIGHTS>;
const WEIGHTS: u32 = KEYS * ROW_QUADS + 1u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    run(group.x + group.y * params.grid_width, lane);
}

// Maximum over the row's lanes; contains one barrier, after which no lane reads K any more.
fn rows_max(lane: u32, x: array<vec4<f32>, ROW_QUADS>) -> array<vec4<f32>, ROW_QUADS> {
    for (var g = 0u; g < ROW_QUADS; g++) {
        wg_reduce[lane * ROW_QUADS + g] = x[g];
    }
    workgroupBarrier();
    var result = x;
    let first = lane - lane % KEY_LANES;
    for (var i = 0u; i < KEY_LANES; i++) {
        for (var g = 0u; g < ROW_QUADS; g++) {
            result[g] = max(result[g], wg_reduce[(first + i) * ROW_QUADS + g]);
        }
    }
    return result;
}

// Sum over the row's lanes, in the same order for all of them; contains two barriers.
fn rows_sum(lane: u32, x: array<vec4<f32>, ROW_QUADS>) -> array<vec4<f32>, ROW_QUADS> {
    workgroupBarrier();
    for (var g = 0u; g < ROW_QUADS; g++) {
        wg_reduce[lane * ROW_QUADS + g] = x[g];
    }
    workgroupBarrier();
    var result: array<vec4<f32>, ROW_QUADS>;
    let first = lane - lane % KEY_LANES;
    for (var i = 0u; i < KEY_LANES; i++) {
        for (var g = 0u; g < ROW_QUADS; g++) {
            result[g] += wg_reduce[(first + i) * ROW_QUADS + g];
        }
    }
    return result;
}

// K may be overwritten after this: rows_max was a barrier already.
fn keys_done() {}

// Makes this lane's weights of key `n * KEY_LANES + key lane` readable, from weights_shared() on.
fn share_weight(lane: u32, row_quad: u32, n: u32, weight: vec4<f32>) {
    wg_weight[(lane / KEY_LANES) * WEIGHTS + (n * KEY_LANES + lane % KEY_LANES) * ROW_QUADS + row_quad] = weight;
}

// All weights are shared and V is loaded after this.
fn weights_shared() {
    workgroupBarrier();
}

// The weights that key lane `source` of the same rows holds for its n-th key; `own` are this lane's.
fn weight_of(lane: u32, row_quad: u32, n: u32, source: u32, own: vec4<f32>) -> vec4<f32> {
    return wg_weight[(lane / KEY_LANES) * WEIGHTS + (n * KEY_LANES + source) * ROW_QUADS + row_quad];
}
