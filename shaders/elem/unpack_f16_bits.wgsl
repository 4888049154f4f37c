// f16 read with integer operations, for devices without SHADER_F16. Infinities and NaN stay what they are.

fn unpack_halves(h: vec4<u32>) -> vec4<f32> {
    let size = h & vec4<u32>(0x7fffu);
    let bias = select(vec4<u32>(0x38000000u), vec4<u32>(0x70000000u), size >= vec4<u32>(0x7c00u));
    let normal = bitcast<vec4<f32>>((size << vec4<u32>(13u)) + bias);
    let small = vec4<f32>(size) * 5.9604644775390625e-8;  // multiples of 2^-24
    let x = select(normal, small, size < vec4<u32>(0x400u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) | ((h & vec4<u32>(0x8000u)) << vec4<u32>(16u)));
}

fn unpack8(e: Elem8) -> F32x8 {
    let even = unpack_halves(e & vec4<u32>(0xffffu));
    let odd = unpack_halves(e >> vec4<u32>(16u));
    return F32x8(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
}
