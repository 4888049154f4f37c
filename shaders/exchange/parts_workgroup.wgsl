// How the LANES invocations of a group exchange PARTS vec4s of each item: through workgroup memory.
// Workgroup memory: 16 · THREADS / LANES · (PARTS · ITEMS + 1) bytes.

// Padded by one vec4 so that groups fall into different banks.
var<workgroup> wg_part: array<vec4<f32>, (THREADS / LANES) * (PARTS * ITEMS + 1u)>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    run(group.x + group.y * params.grid_width, lane);
}

// Makes a part of this lane's n-th item readable, from parts_shared() on.
fn share_part(lane: u32, part: u32, n: u32, x: vec4<f32>) {
    wg_part[(lane / LANES) * (PARTS * ITEMS + 1u) + part * ITEMS + n * LANES + lane % LANES] = x;
}

fn parts_shared() {
    workgroupBarrier();
}

// The part of the n-th item of lane `source` of the group; `own` is this lane's.
fn part_of(lane: u32, part: u32, n: u32, source: u32, own: vec4<f32>) -> vec4<f32> {
    return wg_part[(lane / LANES) * (PARTS * ITEMS + 1u) + part * ITEMS + n * LANES + source];
}

// Sum over the lanes of the group, in the same order for all of them; contains two barriers.
fn lanes_sum(lane: u32, x: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    share_part(lane, 0u, 0u, x);
    workgroupBarrier();
    var sum = vec4<f32>(0.0);
    for (var source = 0u; source < LANES; source++) {
        sum += part_of(lane, 0u, 0u, source, x);
    }
    return sum;
}
