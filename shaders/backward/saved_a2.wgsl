// The forward saved a₂: c₂ = dout · a₂ is at hand, and with it dλ.
@group(0) @binding(7) var<storage, read> a2: array<Elem8>;
@group(0) @binding(26) var<storage, read_write> dlam: array<f32>;

// Part of c₂.
fn dot_a2(row: u32, octet: u32, dout: F32x8) -> f32 {
    let x = unpack8(a2[row + octet]);
    return dot(x.lo, dout.lo) + dot(x.hi, dout.hi);
}

fn write_dlam(index: u32, x: f32) {
    var sum = x;
    if (params.accumulate != 0u) {
        sum += dlam[index];
    }
    dlam[index] = sum;
}
