// LSE is wanted: natural logarithm, f32.
// Stored as bits: WGSL has no infinity to compute with, and -inf is what a row without keys has.
@group(0) @binding(6) var<storage, read_write> lse: array<u32>;

// `row_max` and `row_sum` are in log2 units.
fn write_lse(batch: u32, head: u32, token: u32, row_max: f32, row_sum: f32) {
    let value = bitcast<u32>((row_max + log2(max(row_sum, 1e-37))) * LN_2);
    lse[row_of(params.lse, batch, token, head)] = select(0xff800000u, value, row_max > NO_KEY);
}
