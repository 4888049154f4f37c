// DIFF V1: the gradients of the four vectors that make λ.
//
// One invocation owns four elements of each vector. Workgroup memory: none. Barriers: none. Numerics: f32.
// Source: "Differential Transformer" (Ye et al., 2024), differentiated.

@group(0) @binding(1) var<storage, read> vectors: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lambda: array<Lambda>;
@group(0) @binding(3) var<storage, read> dlambda: array<f32>;  // the last quad of the sums: its first element
@group(0) @binding(4) var<storage, read_write> gradient: array<vec4<f32>>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * THREADS + lane;
    let quads = params.head_quads;
    if (i >= quads) {
        return;
    }
    let d1 = dlambda[4u * params.quads] * lambda[0].e1;
    let d2 = -dlambda[4u * params.quads] * lambda[0].e2;
    gradient[i] = d1 * vectors[quads + i];
    gradient[quads + i] = d1 * vectors[i];
    gradient[2u * quads + i] = d2 * vectors[3u * quads + i];
    gradient[3u * quads + i] = d2 * vectors[2u * quads + i];
}
