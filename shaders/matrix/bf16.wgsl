// q, k and v in bf16, converted to the matrices' f16 on the way in. What f16 cannot hold (above 65504) is infinite there.
@group(0) @binding(1) var<storage, read> q: array<Elem8>;
@group(0) @binding(2) var<storage, read> k: array<Elem8>;
@group(0) @binding(3) var<storage, read> v: array<Elem8>;

fn halves8(x: F32x8) -> Halves8 {
    return Halves8(vec4<f16>(x.lo), vec4<f16>(x.hi));
}

fn q8(unit: u32) -> Halves8 {
    return halves8(unpack8(q[unit]));
}

fn k8(unit: u32) -> Halves8 {
    return halves8(unpack8(k[unit]));
}

fn v8(unit: u32) -> Halves8 {
    return halves8(unpack8(v[unit]));
}
