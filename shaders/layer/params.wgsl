// The uniform block of the small kernels of the attention module. Mirrored by src/params.rs; a test compares both by
// reflection.

struct Params {
    work: u32,         // invocations (of sums: workgroups) that have work
    grid_width: u32,   // workgroups along x; the grid is folded where one dimension is too short
    rows: u32,         // that are summed over
    quads: u32,        // of one row
    head_quads: u32,   // of one head
    factor: f32,       // V1's 1 - lambda_init
    epsilon: f32,      // of V1's norm
    lambda_init: f32,  // of V1
}

@group(0) @binding(0) var<uniform> params: Params;
