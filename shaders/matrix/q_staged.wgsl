// Q in workgroup memory over the whole loop, read again for every tile of keys.
alias Queries = u32;  // nothing is kept

fn load_queries(tile: Tile, lane: u32, first_strip: u32) -> Queries {
    for (var i = lane; i < ROWS * PADDED_HEAD_OCTETS; i += THREADS) {
        let slot = i / PADDED_HEAD_OCTETS * Q_STRIDE + 8u * (i % PADDED_HEAD_OCTETS);
        let x = query_octet(tile, i / PADDED_HEAD_OCTETS, i % PADDED_HEAD_OCTETS);
        put_a(slot, x.lo);
        put_a(slot + 4u, x.hi);
    }
    workgroupBarrier();
    return 0u;
}

fn q_matrix(queries: ptr<function, Queries>, first_strip: u32, strip: u32, step: u32) -> MatA {
    let slot = (first_strip + strip * MAT) * Q_STRIDE + step * MAT;
    return coopLoadT<MatA>(&wg_a[slot / CELL], Q_STRIDE / CELL);
}
