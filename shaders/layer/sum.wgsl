// A workgroup's sum over all rows of what term() gives. Barriers: one, and one for each halving.

var<workgroup> wg_sum: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quad = group.x + group.y * params.grid_width;
    if (quad >= params.work) {
        return;
    }
    var sum = vec4<f32>(0.0);
    for (var i = lane; i < params.rows; i += THREADS) {
        sum += term(i, quad);
    }
    wg_sum[lane] = sum;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            wg_sum[lane] += wg_sum[lane + width];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        write_sum(quad, wg_sum[0]);
    }
}
