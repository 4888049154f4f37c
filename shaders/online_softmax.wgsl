// Numbers that every streaming softmax shares. Scores are in log2 units.
// WGSL may assume that no infinity or NaN occurs, so both sentinels are finite. Masked scores lie far below the
// starting maximum, hence exp2(UNSEEN - maximum) is 0 whatever has been seen so far, and no select is needed. No
// difference of two of these numbers overflows.

const UNSEEN: f32 = -1.6e38;        // score of a key that the row does not see
const NO_KEY: f32 = -1.5e38;        // row maximum before the first key
const LARGEST_SCORE: f32 = 1.4e38;  // scores saturate here, so that none is taken for a sentinel

// 1 / sum, or 0 for a row that saw no key. Tested on the maximum: some drivers' exp2 never reaches 0.
fn normaliser(row_max: f32, row_sum: f32) -> f32 {
    return select(0.0, 1.0 / max(row_sum, 1e-37), row_max > NO_KEY);
}

// sigmoid(logit), without overflow.
fn gate_of(logit: f32) -> f32 {
    return 1.0 / (1.0 + exp2(min(-logit * LOG2_E, 126.0)));
}
