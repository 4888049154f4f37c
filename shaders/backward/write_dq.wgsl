@group(0) @binding(21) var<storage, read> terms: array<Terms>;
@group(0) @binding(23) var<storage, read_write> dq: array<Elem4>;

// Four elements of dQ; `x` lacks the scale.
fn write_dq(index: u32, x: vec4<f32>) {
    var sum = x * gradient_scale();
    if (params.accumulate != 0u) {
        sum += unpack4(dq[index]);
    }
    dq[index] = pack4(sum);
}
