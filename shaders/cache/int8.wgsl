// The cache holds signed bytes with one f32 factor for each row of K and of V.
alias CacheElem = vec2<u32>;
@group(0) @binding(7) var<storage, read> scales: array<vec2<f32>>;

fn signed_bytes(e: u32) -> vec4<f32> {
    return vec4<f32>((bitcast<vec4<i32>>(vec4<u32>(e) << vec4<u32>(24u, 16u, 8u, 0u))) >> vec4<u32>(24u));
}

// Without its factor, which is applied once for each row.
fn unpack_cache(e: CacheElem) -> F32x8 {
    return F32x8(signed_bytes(e.x), signed_bytes(e.y));
}

// Factors of a row of K and of V.
fn scales_of(row: u32) -> vec2<f32> {
    return scales[row];
}
