// Matrix products in registers, f16 × f16 → f32: what the matrix units do at best. MAT, SUBGROUP, SUBGROUPS, CHAINS and the
// matrix types come from the header.
//
// A subgroup runs CHAINS independent chains of STEPS products, each with an operand B of its own, so that no compiler makes
// one of them. Loops marked `unrolled` are written out by src/shader/unroll.rs: arrays of matrices that are indexed in a
// loop may lie in memory, which is no limit of the units. Workgroup memory: 6 · MAT · MAT bytes for each subgroup, and 128.
// Barriers: operands there; results there. Numerics: sums of MAT / 256 each, below 64 at the end.

@group(0) @binding(0) var<storage, read_write> result: array<f32, 1>;

const STEPS: u32 = 256u;
const ELEMENTS: u32 = MAT * MAT;
const THREADS: u32 = SUBGROUPS * SUBGROUP;

var<workgroup> wg_operand: array<f16, SUBGROUPS * ELEMENTS + 8u * CHAINS>;
var<workgroup> wg_sum: array<f32, SUBGROUPS * ELEMENTS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) invocation: u32) {
    let first = subgroup * ELEMENTS;
    for (var i = subgroup * SUBGROUP + invocation; i < SUBGROUPS * ELEMENTS + 8u * CHAINS; i += THREADS) {
        wg_operand[i] = f16(0.0625);
    }
    workgroupBarrier();
    let a = coopLoadT<MatA>(&wg_operand[first], MAT);
    var b: array<MatB, CHAINS>;
    for (var chain = 0u; chain < CHAINS; chain++) { // unrolled
        b[chain] = coopLoad<MatB>(&wg_operand[first + 8u * chain], MAT);
    }
    var sum: array<MatC, CHAINS>;
    for (var step = 0u; step < STEPS; step++) {
        for (var chain = 0u; chain < CHAINS; chain++) { // unrolled
            sum[chain] = coopMultiplyAdd(a, b[chain], sum[chain]);
        }
    }
    var total = 0.0;
    for (var chain = 0u; chain < CHAINS; chain++) { // unrolled
        workgroupBarrier();
        coopStoreT(sum[chain], &wg_sum[first], MAT);
        workgroupBarrier();
        total += wg_sum[first + invocation % ELEMENTS];
    }
    // Never so, which no compiler knows: the products are needed, and no bandwidth is.
    if (total < 0.0) {
        result[0] = total;
    }
}
