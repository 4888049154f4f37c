// Q straight from global memory. A strip is MAT positions of one query head, whose rows are evenly spaced there; the two
// members of a pair are neighbouring strips. The last strips of a sequence begin early, so that they end with it: their
// first rows belong to others and are not written. So q_len is at least MAT.
const POSITIONS: u32 = ROWS / ROWS_PER_POSITION;
const Q_STAGED: bool = false;

fn row_at(row: u32, first_query: u32, q_len: u32, first_head: u32) -> Row {
    let strip = row / MAT;
    let start = first_query + strip / ROWS_PER_POSITION * MAT;
    let query = min(start, q_len - MAT) + row % MAT;
    return Row(query, first_head + strip % ROWS_PER_POSITION, query >= start);
}

fn pair_at(pair: u32) -> vec2<u32> {
    let first = pair / MAT * 2u * MAT + pair % MAT;
    return vec2<u32>(first, first + MAT);
}

// `place` is that of the strip's first row.
fn q_place(row: u32, batch: u32, q_start: u32, place: Row) -> u32 {
    return 2u * row_of(params.q, batch, q_start + place.query, place.head);
}

fn q_matrix(place: u32, step: u32) -> MatA {
    return coopLoadT<MatA>(&q[place + step * MAT / 4u], 2u * params.q.seq);
}
