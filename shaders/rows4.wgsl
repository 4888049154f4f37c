// Four rows at a time: a vec4 named after rows (or pairs, or keys) holds one value for each of the four.

// Four elements of each of four rows: so few, that they take few registers beside the sums.
struct Quads {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// The lower or upper half of each of four octets.
fn quads_of(a: F32x8, b: F32x8, c: F32x8, d: F32x8, upper: bool) -> Quads {
    if (upper) {
        return Quads(a.hi, b.hi, c.hi, d.hi);
    }
    return Quads(a.lo, b.lo, c.lo, d.lo);
}

// acc += (rows a..d) · x, one accumulator per row.
fn multiply_rows(acc: vec4<f32>, rows: Quads, x: vec4<f32>) -> vec4<f32> {
    var sum = fma(vec4<f32>(rows.a.x, rows.b.x, rows.c.x, rows.d.x), vec4<f32>(x.x), acc);
    sum = fma(vec4<f32>(rows.a.y, rows.b.y, rows.c.y, rows.d.y), vec4<f32>(x.y), sum);
    sum = fma(vec4<f32>(rows.a.z, rows.b.z, rows.c.z, rows.d.z), vec4<f32>(x.z), sum);
    return fma(vec4<f32>(rows.a.w, rows.b.w, rows.c.w, rows.d.w), vec4<f32>(x.w), sum);
}
