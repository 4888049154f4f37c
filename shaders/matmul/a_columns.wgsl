// A lies as depth × rows: contiguous along the rows of C.
const A_ALONG_DEPTH: bool = false;

// Four rows × four steps of depth, one vector for each row.
fn a_block(row_quad: u32, depth_quad: u32) -> mat4x4<f32> {
    let last = (params.rows - 1u) / 4u;
    let exists = existing(depth_quad);
    var block: mat4x4<f32>;
    for (var j = 0u; j < 4u; j++) {
        let k = min(4u * depth_quad + j, params.depth - 1u);
        let x = load_a(params.a_base + k * params.a_stride + min(row_quad, last));
        block[j] = select(vec4<f32>(0.0), x, exists[j]);
    }
    return transpose(block);
}
