// The cache holds signed bytes: a row's factor is its largest magnitude / 127, so that the error is at most half of it.
@group(0) @binding(2) var<storage, read_write> k: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> v: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> scales: array<array<f32, 2>>;  // of K, of V

fn largest(x: F32x8) -> f32 {
    let size = max(abs(x.lo), abs(x.hi));
    return max(max(size.x, size.y), max(size.z, size.w));
}

fn to_bytes(x: vec4<f32>) -> u32 {
    let bytes = vec4<u32>(clamp(vec4<i32>(round(x)), vec4<i32>(-127), vec4<i32>(127))) & vec4<u32>(255u);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

// 1 / factor. A row of zeros, or one too small for its inverse, is kept as zeros.
fn inverse(factor: f32) -> f32 {
    return select(0.0, 1.0 / factor, factor > 1e-37);
}

fn append_k(row: u32, source: u32) {
    var size = 0.0;
    for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
        size = max(size, largest(unpack8(new_k[source + octet])));
    }
    scales[row][0] = size / 127.0;
    let by = inverse(size / 127.0);
    for (var octet = 0u; octet < HEAD_OCTETS; octet++) {
        let x = unpack8(new_k[source + octet]);
        k[row * HEAD_OCTETS + octet] = vec2<u32>(to_bytes(x.lo * by), to_bytes(x.hi * by));
    }
}

fn append_v(row: u32, source: u32) {
    var size = 0.0;
    for (var octet = 0u; octet < VALUE_OCTETS; octet++) {
        size = max(size, largest(unpack8(new_v[source + octet])));
    }
    scales[row][1] = size / 127.0;
    let by = inverse(size / 127.0);
    for (var octet = 0u; octet < VALUE_OCTETS; octet++) {
        let x = unpack8(new_v[source + octet]);
        v[row * VALUE_OCTETS + octet] = vec2<u32>(to_bytes(x.lo * by), to_bytes(x.hi * by));
    }
}
