// q, k and v in f16: bound as what the matrices take, so nothing is converted. A unit of eight is two elements here.
@group(0) @binding(1) var<storage, read> q: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> k: array<array<vec4<f16>, 2>>;
@group(0) @binding(3) var<storage, read> v: array<array<vec4<f16>, 2>>;

fn q8(unit: u32) -> Halves8 {
    return Halves8(q[2u * unit], q[2u * unit + 1u]);
}

fn k8(unit: u32) -> Halves8 {
    let x = k[unit];
    return Halves8(x[0], x[1]);
}

fn v8(unit: u32) -> Halves8 {
    let x = v[unit];
    return Halves8(x[0], x[1]);
}
