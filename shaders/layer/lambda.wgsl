// DIFF V1: the layer's λ = exp(q₁·k₁) - exp(q₂·k₂) + lambda_init, from four vectors.
//
// One invocation does it all: head_dim multiply-adds. Workgroup memory: none. Barriers: none. Numerics: f32.
// Source: "Differential Transformer" (Ye et al., 2024).

// The four vectors, one after another: q₁, k₁, q₂, k₂.
@group(0) @binding(1) var<storage, read> vectors: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> lambda: array<Lambda>;

@compute @workgroup_size(1)
fn main() {
    var sum = vec2<f32>(0.0);
    for (var i = 0u; i < params.head_quads; i++) {
        sum += vec2<f32>(
            dot(vectors[i], vectors[params.head_quads + i]),
            dot(vectors[2u * params.head_quads + i], vectors[3u * params.head_quads + i]),
        );
    }
    let e = exp(sum);
    lambda[0] = Lambda(e.x - e.y + params.lambda_init, e.x, e.y);
}
