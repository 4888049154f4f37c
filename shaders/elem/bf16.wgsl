// bf16 storage: the upper half of an f32, two in a u32. Integer operations only.
alias Elem8 = vec4<u32>;
alias Elem4 = vec2<u32>;
struct F32x8 {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

fn unpack8(e: Elem8) -> F32x8 {
    let even = bitcast<vec4<f32>>(e << vec4<u32>(16u));
    let odd = bitcast<vec4<f32>>(e & vec4<u32>(0xffff0000u));
    return F32x8(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
}

// Round to nearest, ties to even; a NaN stays one.
fn pack4(x: vec4<f32>) -> Elem4 {
    let bits = bitcast<vec4<u32>>(x);
    let rounded = (bits + vec4<u32>(0x7fffu) + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
    let nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    let half = select(rounded, vec4<u32>(0x7fc0u), nan);
    return vec2<u32>(half.x | (half.y << 16u), half.z | (half.w << 16u));
}

fn unpack4(e: Elem4) -> vec4<f32> {
    return unpack8(vec4<u32>(e, vec2<u32>(0u))).lo;
}
