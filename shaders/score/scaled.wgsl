// The score of q·k in log2 units: params.scale is scale · log2(e).

fn score4(qk: vec4<f32>) -> vec4<f32> {
    return qk * params.scale;
}

// Derivative of the score by scale · q·k, both in one unit.
fn slope4(score: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(1.0);
}

// Factor of q·k in natural logits.
fn gradient_scale() -> f32 {
    return params.scale * LN_2;
}
