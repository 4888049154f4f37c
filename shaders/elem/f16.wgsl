// f16 storage, two in a u32. Reading is in unpack_f16_builtin.wgsl or unpack_f16_bits.wgsl.
alias Elem8 = vec4<u32>;
alias Elem4 = vec2<u32>;
struct F32x8 {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// Round to nearest, ties to even, on every device: pack2x16float may round either way, and is not there everywhere.
fn pack4(x: vec4<f32>) -> Elem4 {
    let bits = bitcast<vec4<u32>>(x);
    let size = bits & vec4<u32>(0x7fffffffu);
    let normal = (size + vec4<u32>(0xfffu) + ((size >> vec4<u32>(13u)) & vec4<u32>(1u)) - vec4<u32>(0x38000000u))
        >> vec4<u32>(13u);
    // Below 2^-14 the f32 adder rounds: 0.5 has exactly f16's smallest step, 2^-24, as its unit in the last place.
    let small = bitcast<vec4<u32>>(bitcast<vec4<f32>>(size) + vec4<f32>(0.5)) - vec4<u32>(0x3f000000u);
    var half = select(normal, small, size < vec4<u32>(0x38800000u));
    half = select(half, vec4<u32>(0x7c00u), size >= vec4<u32>(0x477ff000u));
    half = select(half, vec4<u32>(0x7e00u), size > vec4<u32>(0x7f800000u));
    half |= (bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u);
    return vec2<u32>(half.x | (half.y << 16u), half.z | (half.w << 16u));
}

fn unpack4(e: Elem4) -> vec4<f32> {
    return unpack8(vec4<u32>(e, vec2<u32>(0u))).lo;
}
