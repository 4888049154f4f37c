// A and B in bf16, converted to the matrices' f16 on the way in: exact from 2^-17 to 65504. Above, it is infinite; below,
// bits are lost, and zero is left below 2^-25. Activations and weights are not as small; gradients are, so that theirs never
// come here (src/tile/matmul_matrix.rs).
@group(0) @binding(1) var<storage, read> a: array<Elem4>;
@group(0) @binding(2) var<storage, read> b: array<Elem4>;

fn a4(i: u32) -> vec4<f16> {
    return vec4<f16>(unpack4(a[i]));
}

fn b4(i: u32) -> vec4<f16> {
    return vec4<f16>(unpack4(b[i]));
}
