// A lies as rows × depth: contiguous along depth.
const A_ALONG_DEPTH: bool = true;

// Four rows × four steps of depth, one vector for each row.
fn a_block(row_quad: u32, depth_quad: u32) -> mat4x4<f32> {
    let last = (params.depth - 1u) / 4u;
    let exists = existing(depth_quad);
    var block: mat4x4<f32>;
    for (var j = 0u; j < 4u; j++) {
        let row = min(4u * row_quad + j, params.rows - 1u);
        let x = load_a(params.a_base + row * params.a_stride + min(depth_quad, last));
        block[j] = select(vec4<f32>(0.0), x, exists);
    }
    return block;
}
