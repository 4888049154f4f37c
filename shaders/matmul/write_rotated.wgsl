// C after the rotary embedding: rows are tokens, columns heads of elements. Elements 2i and 2i+1 of a head are turned by
// the i-th angle of the token's position (interleaved form).
// Source: RoFormer (Su et al., 2021).
@group(0) @binding(4) var<storage, read> positions: array<u32>;    // of each token
@group(0) @binding(5) var<storage, read> angles: array<vec4<f32>>;  // [position][quad]: cos, sin of its two pairs

fn write_quad(row: u32, quad: u32, x: vec4<f32>) {
    let in_head = quad % params.head_quads;
    let angle = angles[positions[row] * params.head_quads + in_head];
    let head = params.c_base + row * params.c_stride + quad / params.head_quads * params.head_stride;
    store_c(head + in_head, turned(x, angle));
}
