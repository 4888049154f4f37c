// f16 read by the built-in conversion: browsers, and native devices with SHADER_F16.

fn unpack8(e: Elem8) -> F32x8 {
    return F32x8(
        vec4<f32>(unpack2x16float(e.x), unpack2x16float(e.y)),
        vec4<f32>(unpack2x16float(e.z), unpack2x16float(e.w)),
    );
}
