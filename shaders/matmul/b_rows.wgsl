// B lies as depth × columns: contiguous along the columns of C.
const B_ALONG_DEPTH: bool = false;

// Four steps of depth × four columns, one vector for each step. Beyond `depth` the last step again: A is zero there.
fn b_block(quad: u32, depth_quad: u32) -> mat4x4<f32> {
    let column = params.b_base + min(quad, params.column_quads - 1u);
    let last = params.depth - 1u;
    return mat4x4<f32>(
        load_b(min(4u * depth_quad, last) * params.b_stride + column),
        load_b(min(4u * depth_quad + 1u, last) * params.b_stride + column),
        load_b(min(4u * depth_quad + 2u, last) * params.b_stride + column),
        load_b(min(4u * depth_quad + 3u, last) * params.b_stride + column),
    );
}
