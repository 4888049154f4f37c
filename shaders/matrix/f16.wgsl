// q, k and v in f16: bound as what the matrices take, so nothing is converted. A unit of eight is two elements here.
@group(0) @binding(1) var<storage, read> q: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f16>>;

fn q8(unit: u32) -> Halves8 {
    return Halves8(q[2u * unit], q[2u * unit + 1u]);
}

fn k8(unit: u32) -> Halves8 {
    return Halves8(k[2u * unit], k[2u * unit + 1u]);
}

fn v8(unit: u32) -> Halves8 {
    return Halves8(v[2u * unit], v[2u * unit + 1u]);
}
