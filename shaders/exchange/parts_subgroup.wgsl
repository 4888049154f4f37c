// How the LANES invocations of a group exchange vec4s: by subgroup shuffles.
// LANES is a power of two, at most the device's smallest subgroup, so the lanes of a group always share a subgroup.
// Lanes are numbered by (subgroup, invocation in it), not by the local index, whose order WGSL does not promise.
// Needs no workgroup memory and no barriers.

var<private> first_of_group: u32;  // subgroup invocation of this group's first lane

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    first_of_group = invocation - invocation % LANES;
    run(group.x + group.y * params.grid_width, subgroup * subgroup_size + invocation);
}

// Parts stay in the registers of the lane that owns the item.
fn share_part(lane: u32, part: u32, n: u32, x: vec4<f32>) {}

fn parts_shared() {}

// The part of the n-th item of lane `source` of the group; `own` is this lane's.
fn part_of(lane: u32, part: u32, n: u32, source: u32, own: vec4<f32>) -> vec4<f32> {
    return subgroupShuffle(own, first_of_group + source);
}

// Sum over the lanes of the group; a butterfly adds in the same order for all of them.
fn lanes_sum(lane: u32, x: vec4<f32>) -> vec4<f32> {
    var sum = x;
    for (var distance = 1u; distance < LANES; distance <<= 1u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    return sum;
}
