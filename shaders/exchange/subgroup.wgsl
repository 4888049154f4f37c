// How the KEY_LANES invocations that share rows exchange row maxima, row sums and weights: by subgroup shuffles.
// KEY_LANES is a power of two, at most the device's smallest subgroup, so the lanes of a row always share a subgroup.
// Lanes are numbered by (subgroup, invocation in it), not by the local index, whose order WGSL does not promise.
// Needs no workgroup memory.

var<private> first_of_row: u32;  // subgroup invocation of this row's key lane 0

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    first_of_row = invocation - invocation % KEY_LANES;
    // Every driver fills the subgroups of a workgroup that is a multiple of them; should one not, the remainder keeps
    // every index in range.
    run(group.x + group.y * params.grid_width, (subgroup * subgroup_size + invocation) % THREADS);
}

// Maximum over the row's lanes.
fn rows_max(lane: u32, x: array<vec4<f32>, ROW_QUADS>) -> array<vec4<f32>, ROW_QUADS> {
    var result = x;
    for (var g = 0u; g < ROW_QUADS; g++) {
        for (var distance = 1u; distance < KEY_LANES; distance <<= 1u) {
            result[g] = max(result[g], subgroupShuffleXor(result[g], distance));
        }
    }
    return result;
}

// Sum over the row's lanes; a butterfly adds in the same order for all of them.
fn rows_sum(lane: u32, x: array<vec4<f32>, ROW_QUADS>) -> array<vec4<f32>, ROW_QUADS> {
    var result = x;
    for (var g = 0u; g < ROW_QUADS; g++) {
        for (var distance = 1u; distance < KEY_LANES; distance <<= 1u) {
            result[g] += subgroupShuffleXor(result[g], distance);
        }
    }
    return result;
}

// K may be overwritten after this.
fn keys_done() {
    workgroupBarrier();
}

// Weights stay in the registers of the lane that owns the key.
fn share_weight(lane: u32, row_quad: u32, n: u32, weight: vec4<f32>) {}

// V is loaded after this; where it came together with K, nothing has to be waited for.
fn weights_shared() {
    if (V_BASE == 0u) {
        workgroupBarrier();
    }
}

// The weights that key lane `source` of the same rows holds for its n-th key; `own` are this lane's.
fn weight_of(lane: u32, row_quad: u32, n: u32, source: u32, own: vec4<f32>) -> vec4<f32> {
    return subgroupShuffle(own, first_of_row + source);
}
