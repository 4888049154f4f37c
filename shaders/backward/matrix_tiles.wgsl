// What the two sweeps on matrix units share: their rows, the order of workgroup memory, and powers of two that keep what
// they multiply within f16.
//
// Each subgroup owns MAT rows of ROWS; LANES_PER_ROW of its invocations share one. wg_a holds the weights, which are
// multiplied as A in every tile; before them, on their way into registers, what a workgroup loads once, ROW_STEPS matrices
// of each row at a time, as many as the weights have room for. wg_b holds the tile, ITEMS rows of KV_STRIDE elements for
// each operand; wg_c products on their way from matrices to invocations.

const ROWS: u32 = SUBGROUPS * MAT;
const THREADS: u32 = SUBGROUPS * SUBGROUP;
const LANES_PER_ROW: u32 = SUBGROUP / MAT;
const QUADS_PER_LANE: u32 = ITEMS / 4u / LANES_PER_ROW;
// Padded to whole matrices, with zeros.
const PADDED_HEAD_OCTETS: u32 = HEAD_STEPS * MAT / 8u;
const PADDED_VALUE_OCTETS: u32 = VALUE_STEPS * MAT / 8u;
const ROW_OCTETS: u32 = ROW_STEPS * MAT / 8u;
const C_SLOTS: u32 = ROWS * SCORE_STRIDE;

var<workgroup> wg_largest: array<vec2<f32>, THREADS>;

// 2^(power_of_two - exponent of x); 1 for 0. A product with it is exact, and below 2^(power_of_two + 1).
fn scale_to(x: f32, power_of_two: i32) -> f32 {
    let exponent = i32((bitcast<u32>(x) >> 23u) & 0xffu) - 127;
    let power = select(clamp(power_of_two - exponent, -126, 126), 0, x == 0.0);
    return bitcast<f32>(u32(power + 127) << 23u);
}

// The largest of what all invocations found.
fn largest_of_all(lane: u32, mine: vec2<f32>) -> vec2<f32> {
    wg_largest[lane] = mine;
    workgroupBarrier();
    var largest = vec2<f32>();
    for (var i = 0u; i < THREADS; i++) {
        largest = max(largest, wg_largest[i]);
    }
    return largest;
}

fn largest8(x: F32x8) -> f32 {
    let most = max(abs(x.lo), abs(x.hi));
    return max(max(most.x, most.y), max(most.z, most.w));
}

// Octet `i % ROW_OCTETS` of row `i / ROW_OCTETS`, of those that are on their way.
fn put_row8(i: u32, x: F32x8, scale: f32) {
    let slot = i / ROW_OCTETS * WEIGHT_STRIDE + 8u * (i % ROW_OCTETS);
    put_a(slot, vec4<f16>(x.lo * scale));
    put_a(slot + 4u, vec4<f16>(x.hi * scale));
}

fn put_b8(slot: u32, x: F32x8, scale: f32) {
    put_b(slot, vec4<f16>(x.lo * scale));
    put_b(slot + 4u, vec4<f16>(x.hi * scale));
}

// Items of the tile as columns: row-by-row products of A with operand `base` of wg_b.
fn b_transposed(base: u32, item: u32, step: u32) -> MatB {
    return coopLoad<MatB>(&wg_b[((base + item * MAT) * KV_STRIDE + step * MAT) / CELL], KV_STRIDE / CELL);
}

// Items of the tile as rows: sums over items.
fn b_rows(base: u32, item: u32, step: u32) -> MatB {
    return coopLoadT<MatB>(&wg_b[((base + item * MAT) * KV_STRIDE + step * MAT) / CELL], KV_STRIDE / CELL);
}

// This subgroup's rows of wg_a, from column `column` on: weights for MAT items, or what is on its way.
fn a_matrix(first_row: u32, column: u32) -> MatA {
    return coopLoadT<MatA>(&wg_a[(first_row * WEIGHT_STRIDE + column) / CELL], WEIGHT_STRIDE / CELL);
}

fn store_products(x: MatC, first_row: u32, column: u32) {
    coopStoreT(x, &wg_c[(first_row * SCORE_STRIDE + column) / CELL], SCORE_STRIDE / CELL);
}
