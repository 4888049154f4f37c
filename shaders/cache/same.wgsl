// The cache holds the storage type of q and out.
alias CacheElem = Elem8;

fn unpack_cache(e: CacheElem) -> F32x8 {
    return unpack8(e);
}

// Factors of a row of K and of V.
fn scales_of(row: u32) -> vec2<f32> {
    return vec2<f32>(1.0);
}
