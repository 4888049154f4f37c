// Q in workgroup memory. Rows in the order of forward.wgsl: (position, output head of the tile, member), so that few
// positions fill a strip.
const POSITIONS: u32 = ROWS / ROWS_PER_POSITION;
const Q_STAGED: bool = true;

fn row_at(row: u32, first_query: u32, q_len: u32, first_head: u32) -> Row {
    let query = first_query + row / ROWS_PER_POSITION;
    let exists = query < q_len && row < POSITIONS * ROWS_PER_POSITION;
    return Row(min(query, q_len - 1u), first_head + row % ROWS_PER_POSITION, exists);
}

fn pair_at(pair: u32) -> vec2<u32> {
    return vec2<u32>(2u * pair, 2u * pair + 1u);
}

fn q_place(row: u32, batch: u32, q_start: u32, place: Row) -> u32 {
    return row * Q_STRIDE;
}

fn q_matrix(place: u32, step: u32) -> MatA {
    return coopLoadT<MatA>(&wg_a[(place + step * MAT) / CELL], Q_STRIDE / CELL);
}
