// A and B in f16: bound as what the matrices take, so nothing is converted and every product is exact.
@group(0) @binding(1) var<storage, read> a: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f16>>;

fn a4(i: u32) -> vec4<f16> {
    return a[i];
}

fn b4(i: u32) -> vec4<f16> {
    return b[i];
}
