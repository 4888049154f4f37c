// The softcapped score softcap · tanh(q·k · scale / softcap) in log2 units.

// tanh built from exp2: the built-in may overflow for large arguments, and cancels for small ones.
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    let size = min(abs(x), vec4<f32>(20.0));
    let large = 1.0 - 2.0 / (exp2(size * (2.0 * LOG2_E)) + 1.0);
    let x2 = x * x;
    let series = x * (1.0 + x2 * (-1.0 / 3.0 + x2 * (2.0 / 15.0 + x2 * (-17.0 / 315.0 + x2 * (62.0 / 2835.0)))));
    return select(sign(x) * large, series, size < vec4<f32>(0.25));
}

fn score4(qk: vec4<f32>) -> vec4<f32> {
    return (params.softcap * LOG2_E) * tanh4(qk * (params.scale / params.softcap));
}

// Derivative of the softcapped score by scale · q·k, both in one unit: 1 - tanh².
fn slope4(score: vec4<f32>) -> vec4<f32> {
    let tanh = score / (params.softcap * LOG2_E);
    return 1.0 - tanh * tanh;
}

// Factor of q·k in natural logits.
fn gradient_scale() -> f32 {
    return params.scale;
}
