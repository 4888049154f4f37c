// How the invocations that share rows exchange row maxima: through workgroup memory. PARTS is 1.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    run(group.x + group.y * params.grid_width, lane);
}

// Sum over the lanes that share a key.
fn sum_parts(x: Rows) -> Rows {
    return x;
}

// Makes this lane's maximum of a pack readable by rows_max, after a barrier.
fn share_max(lane: u32, pack: u32, column: u32, part: u32, x: Rows) {
    wg_column[pack * COLUMNS + column] = x;
}

fn rows_max(pack: u32) -> Rows {
    var result = wg_column[pack * COLUMNS];
    for (var i = 1u; i < COLUMNS; i++) {
        result = max(result, wg_column[pack * COLUMNS + i]);
    }
    return result;
}

// The group of lanes that take the same keys' values.
fn group_of(key_lane: u32) -> u32 {
    return key_lane / GROUP_LANES;
}
