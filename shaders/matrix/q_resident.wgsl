// Q in registers. It gets there through the place of K and V, one strip of every subgroup at a time, and Q_PASS_STEPS of
// its matrices, as many as fit.
alias Queries = array<MatA, STRIPS * HEAD_STEPS>;

const Q_ROWS: u32 = SUBGROUPS / COLUMNS * MAT;  // at a time
const Q_PASS_OCTETS: u32 = Q_PASS_STEPS * MAT / 8u;

fn load_queries(tile: Tile, lane: u32, first_strip: u32) -> Queries {
    var queries: Queries;
    for (var strip = 0u; strip < STRIPS; strip++) { // unrolled
        for (var part = 0u; part < Q_PASSES; part++) { // unrolled
            for (var i = lane; i < Q_ROWS * Q_PASS_OCTETS; i += THREADS) {
                let at = i / Q_PASS_OCTETS;
                let row = at / MAT * ROWS_PER_SUBGROUP + strip * MAT + at % MAT;
                let x = query_octet(tile, row, part * Q_PASS_OCTETS + i % Q_PASS_OCTETS);
                let slot = at * Q_STRIDE + 8u * (i % Q_PASS_OCTETS);
                put_b(slot, x.lo);
                put_b(slot + 4u, x.hi);
            }
            workgroupBarrier();
            for (var n = 0u; n < Q_PASS_STEPS; n++) { // unrolled
                if (part * Q_PASS_STEPS + n < HEAD_STEPS) {
                    let slot = first_strip / STRIPS * Q_STRIDE + n * MAT;
                    queries[strip * HEAD_STEPS + min(part * Q_PASS_STEPS + n, HEAD_STEPS - 1u)] =
                        coopLoadT<MatA>(&wg_b[slot / CELL], Q_STRIDE / CELL);
                }
            }
            workgroupBarrier();
        }
    }
    return queries;
}

fn q_matrix(queries: ptr<function, Queries>, first_strip: u32, strip: u32, step: u32) -> MatA {
    return (*queries)[strip * HEAD_STEPS + step];
}
