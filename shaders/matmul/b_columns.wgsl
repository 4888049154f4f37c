// B lies as columns × depth: contiguous along depth, as the weight of a linear layer does in its forward pass.
const B_ALONG_DEPTH: bool = true;

// Four steps of depth × four columns, one vector for each step; zero beyond `depth`, where rows may be padded.
fn b_block(quad: u32, depth_quad: u32) -> mat4x4<f32> {
    let first = params.b_base + min(depth_quad, (params.depth - 1u) / 4u);
    let last = params.columns - 1u;
    var block = transpose(mat4x4<f32>(
        load_b(min(4u * quad, last) * params.b_stride + first),
        load_b(min(4u * quad + 1u, last) * params.b_stride + first),
        load_b(min(4u * quad + 2u, last) * params.b_stride + first),
        load_b(min(4u * quad + 3u, last) * params.b_stride + first),
    ));
    let exists = existing(depth_quad);
    for (var j = 0u; j < 4u; j++) {
        block[j] = select(vec4<f32>(0.0), block[j], exists[j]);
    }
    return block;
}
