// Multiply-adds in registers: what the arithmetic units do at best. Scalar (f32 or f16) comes from the header.
//
// An invocation runs eight independent chains of STEPS multiply-adds on four elements. Workgroup memory: none.
// Barriers: none. Numerics: every chain converges to y / (1 - x), near 1; its values stay normal numbers in both types.

@group(0) @binding(0) var<storage, read_write> result: array<vec4<f32>, 1>;

const STEPS: u32 = 1024u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let x = vec4<Scalar>(Scalar(0.998 + 1e-5 * f32(lane)));
    let y = vec4<Scalar>(Scalar(0.002));
    var a = x;
    var b = x * Scalar(1.1);
    var c = x * Scalar(1.2);
    var d = x * Scalar(1.3);
    var e = x * Scalar(1.4);
    var f = x * Scalar(1.5);
    var g = x * Scalar(1.6);
    var h = x * Scalar(1.7);
    for (var i = 0u; i < STEPS; i++) {
        a = fma(a, x, y);
        b = fma(b, x, y);
        c = fma(c, x, y);
        d = fma(d, x, y);
        e = fma(e, x, y);
        f = fma(f, x, y);
        g = fma(g, x, y);
        h = fma(h, x, y);
    }
    let sum = vec4<f32>(a + b + c + d + e + f + g + h);
    // Never so, which no compiler knows: the chains are needed, and no bandwidth is.
    if (sum.x < 0.0) {
        result[0] = sum;
    }
}
