// How the invocations that share rows exchange scores and row maxima: inside a subgroup by shuffles, so that the PARTS
// lanes of a key read neighbouring elements, and across subgroups by one value of each. ROW_LANES is 1.
// PARTS and THREADS are powers of two, PARTS at most the device's smallest subgroup. Lanes are numbered by (subgroup, invocation in it),
// not by the local index, whose order WGSL does not promise.

var<private> subgroups: u32;
var<private> subgroup: u32;
var<private> lanes: u32;  // of a subgroup
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
    lanes = subgroup_size;
    is_first = invocation == 0u;
    run(group.x + group.y * params.grid_width, subgroup_id * subgroup_size + invocation);
}

// Sum over the lanes that share a key; a butterfly adds in the same order for all of them.
fn sum_parts(x: Rows) -> Rows {
    var result = x;
    for (var distance = 1u; distance < PARTS; distance <<= 1u) {
        result += subgroupShuffleXor(result, distance);
    }
    return result;
}

// Makes this subgroup's maximum of a pack readable by rows_max, after a barrier.
fn share_max(lane: u32, pack: u32, column: u32, part: u32, x: Rows) {
    // Those of a key already have the same: fewer exchanges than subgroupMax.
    var largest = x;
    for (var distance = PARTS; distance < min(lanes, THREADS); distance <<= 1u) {
        largest = max(largest, subgroupShuffleXor(largest, distance));
    }
    if (is_first) {
        wg_column[pack * COLUMNS + subgroup] = largest;
    }
}

fn rows_max(pack: u32) -> Rows {
    var result = wg_column[pack * COLUMNS];
    for (var i = 1u; i < subgroups; i++) {
        result = max(result, wg_column[pack * COLUMNS + i]);
    }
    return result;
}

// The group of lanes that take the same keys' values: one for a whole subgroup where they can be, so that a driver that
// sees it loads weights once instead of once for each lane.
fn group_of(key_lane: u32) -> u32 {
    return select(key_lane / GROUP_LANES, subgroup * lanes / GROUP_LANES, GROUP_LANES % lanes == 0u);
}
