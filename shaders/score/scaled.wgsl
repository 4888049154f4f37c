// The score of q·k in log2 units: params.scale is scale · log2(e).

fn score4(qk: vec4<f32>) -> vec4<f32> {
    return clamp(qk * params.scale, vec4<f32>(-LARGEST_SCORE), vec4<f32>(LARGEST_SCORE));
}
