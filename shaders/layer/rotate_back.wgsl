// The gradient through the rotary embedding, in place: the same rotation backwards.
//
// One invocation owns four elements of a token. Workgroup memory: none. Barriers: none. Numerics: f32.
// Source: RoFormer (Su et al., 2021).

@group(0) @binding(1) var<storage, read> positions: array<u32>;    // of each token
@group(0) @binding(2) var<storage, read> angles: array<vec4<f32>>;  // [position][quad]: cos, sin of its two pairs
@group(0) @binding(3) var<storage, read_write> gradient: array<Elem4>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.x + group.y * params.grid_width) * THREADS + lane;
    if (i >= params.work) {
        return;
    }
    let angle = angles[positions[i / params.quads] * params.head_quads + i % params.head_quads];
    gradient[i] = pack4(turned(unpack4(gradient[i]), angle * vec4<f32>(1.0, -1.0, 1.0, -1.0)));
}
