// How the invocations that share rows exchange scores and row maxima: inside a subgroup by shuffles, so that the PARTS
// lanes of a key read neighbouring elements, and across subgroups by one value of each. ROW_LANES is 1.
// PARTS is a power of two, at most the device's smallest subgroup. Lanes are numbered by (subgroup, invocation in it),
// not by the local index, whose order WGSL does not promise.

var<private> subgroups: u32;
var<private> subgroup: u32;
var<private> is_first: bool;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) num_subgroups: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    subgroups = num_subgroups;
    subgroup = subgroup_id;
    is_first = invocation == 0u;
    run(group.x + group.y * params.grid_width, subgroup_id * subgroup_size + invocation);
}

// Sum over the lanes that share a key; a butterfly adds in the same order for all of them.
fn sum_parts(x: vec4<f32>) -> vec4<f32> {
    var result = x;
    for (var distance = 1u; distance < PARTS; distance <<= 1u) {
        result += subgroupShuffleXor(result, distance);
    }
    return result;
}

// Makes this subgroup's maximum of a row quad readable by rows_max, after a barrier.
fn share_max(lane: u32, quad: u32, column: u32, part: u32, x: vec4<f32>) {
    let largest = subgroupMax(x);
    if (is_first) {
        wg_column[quad * COLUMNS + subgroup] = largest;
    }
}

fn rows_max(quad: u32) -> vec4<f32> {
    var result = wg_column[quad * COLUMNS];
    for (var i = 1u; i < subgroups; i++) {
        result = max(result, wg_column[quad * COLUMNS + i]);
    }
    return result;
}
