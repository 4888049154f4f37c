// How the invocations that share rows exchange row maxima: through workgroup memory. PARTS is 1.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    run(group.x + group.y * params.grid_width, lane);
}

// Sum over the lanes that share a key.
fn sum_parts(x: vec4<f32>) -> vec4<f32> {
    return x;
}

// Makes this lane's maximum of a row quad readable by rows_max, after a barrier.
fn share_max(lane: u32, quad: u32, column: u32, part: u32, x: vec4<f32>) {
    wg_column[quad * COLUMNS + column] = x;
}

fn rows_max(quad: u32) -> vec4<f32> {
    var result = wg_column[quad * COLUMNS];
    for (var i = 1u; i < COLUMNS; i++) {
        result = max(result, wg_column[quad * COLUMNS + i]);
    }
    return result;
}
