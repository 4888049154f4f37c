// Matrix products in registers, f16 × f16 → f32: what the matrix units do at best. MAT, SUBGROUP, SUBGROUPS and the
// matrix types come from the header.
//
// A subgroup runs CHAINS independent chains of STEPS products. Workgroup memory: 6 · MAT · MAT bytes for each subgroup.
// Barriers: operands there; results there. Numerics: sums of MAT / 256 each, below 64 at the end.

@group(0) @binding(0) var<storage, read_write> result: array<f32, 1>;

const STEPS: u32 = 256u;
const CHAINS: u32 = 8u;
const ELEMENTS: u32 = MAT * MAT;
const THREADS: u32 = SUBGROUPS * SUBGROUP;

var<workgroup> wg_operand: array<f16, SUBGROUPS * ELEMENTS>;
var<workgroup> wg_sum: array<f32, SUBGROUPS * ELEMENTS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) invocation: u32) {
    let first = subgroup * ELEMENTS;
    for (var i = invocation; i < ELEMENTS; i += SUBGROUP) {
        wg_operand[first + i] = f16(0.0625);
    }
    workgroupBarrier();
    let a = coopLoadT<MatA>(&wg_operand[first], MAT);
    let b = coopLoad<MatB>(&wg_operand[first], MAT);
    var sum: array<MatC, CHAINS>;
    for (var step = 0u; step < STEPS; step++) {
        for (var chain = 0u; chain < CHAINS; chain++) {
            sum[chain] = coopMultiplyAdd(a, b, sum[chain]);
        }
    }
    var total = 0.0;
    for (var chain = 0u; chain < CHAINS; chain++) {
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
