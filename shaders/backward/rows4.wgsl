// Four rows at a time: a vec4 named after rows (or pairs, or keys) holds one value for each of the four.

struct Octets {
    a: F32x8,
    b: F32x8,
    c: F32x8,
    d: F32x8,
}

// acc += (rows a..d) · x, one accumulator per row.
fn multiply_rows(acc: vec4<f32>, rows: Octets, lo: vec4<f32>, hi: vec4<f32>) -> vec4<f32> {
    var sum = fma(vec4<f32>(rows.a.lo.x, rows.b.lo.x, rows.c.lo.x, rows.d.lo.x), vec4<f32>(lo.x), acc);
    sum = fma(vec4<f32>(rows.a.lo.y, rows.b.lo.y, rows.c.lo.y, rows.d.lo.y), vec4<f32>(lo.y), sum);
    sum = fma(vec4<f32>(rows.a.lo.z, rows.b.lo.z, rows.c.lo.z, rows.d.lo.z), vec4<f32>(lo.z), sum);
    sum = fma(vec4<f32>(rows.a.lo.w, rows.b.lo.w, rows.c.lo.w, rows.d.lo.w), vec4<f32>(lo.w), sum);
    sum = fma(vec4<f32>(rows.a.hi.x, rows.b.hi.x, rows.c.hi.x, rows.d.hi.x), vec4<f32>(hi.x), sum);
    sum = fma(vec4<f32>(rows.a.hi.y, rows.b.hi.y, rows.c.hi.y, rows.d.hi.y), vec4<f32>(hi.y), sum);
    sum = fma(vec4<f32>(rows.a.hi.z, rows.b.hi.z, rows.c.hi.z, rows.d.hi.z), vec4<f32>(hi.z), sum);
    return fma(vec4<f32>(rows.a.hi.w, rows.b.hi.w, rows.c.hi.w, rows.d.hi.w), vec4<f32>(hi.w), sum);
}
