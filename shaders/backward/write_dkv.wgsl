@group(0) @binding(21) var<storage, read> terms: array<Terms>;
@group(0) @binding(24) var<storage, read_write> dk: array<Elem4>;
@group(0) @binding(25) var<storage, read_write> dv: array<Elem4>;

// Four elements of dK; `x` lacks the scale.
fn write_dk(index: u32, x: vec4<f32>) {
    var sum = x * gradient_scale();
    if (params.accumulate != 0u) {
        sum += unpack4(dk[index]);
    }
    dk[index] = pack4(sum);
}

fn write_dv(index: u32, x: vec4<f32>) {
    var sum = x;
    if (params.accumulate != 0u) {
        sum += unpack4(dv[index]);
    }
    dv[index] = pack4(sum);
}
