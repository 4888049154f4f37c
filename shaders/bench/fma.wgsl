// Multiply-adds in registers: what the arithmetic units do at best. Scalar (f32 or f16) comes from the header.
//
// An invocation runs three independent chains of STEPS multiply-adds on four elements: enough to hide the latency of a
// unit, few enough for the sixteen registers of a CPU's vectors; eight steps between two turns of the loop, whose own work
// then does not count. Workgroup memory: none. Barriers: none.
// Numerics: every chain converges to y / (1 - x), near 1; its values stay normal numbers in both types.

@group(0) @binding(0) var<storage, read_write> result: array<vec4<f32>, 1>;

const STEPS: u32 = 1024u;

fn four_steps(a: vec4<Scalar>, x: vec4<Scalar>, y: vec4<Scalar>) -> vec4<Scalar> {
    return fma(fma(fma(fma(a, x, y), x, y), x, y), x, y);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let x = vec4<Scalar>(Scalar(0.998 + 1e-5 * f32(lane)));
    let y = vec4<Scalar>(Scalar(0.002));
    var a = x;
    var b = x * Scalar(1.1);
    var c = x * Scalar(1.2);
    for (var i = 0u; i < STEPS; i += 8u) {
        a = four_steps(a, x, y);
        b = four_steps(b, x, y);
        c = four_steps(c, x, y);
        a = four_steps(a, x, y);
        b = four_steps(b, x, y);
        c = four_steps(c, x, y);
    }
    let sum = vec4<f32>(a + b + c);
    // Never so, which no compiler knows: the chains are needed, and no bandwidth is.
    if (sum.x < 0.0) {
        result[0] = sum;
    }
}
