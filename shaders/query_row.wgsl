// What one invocation of a plain kernel owns: a query and output head.

struct QueryRow {
    s: Sequence,
    batch: u32,
    head: u32,      // output head
    kv_head: u32,
    token: u32,
    position: i32,  // of the query among the keys
    exists: bool,
}

fn query_row(row: u32) -> QueryRow {
    if (row >= params.tiles) {
        return QueryRow();
    }
    let heads = params.kv_heads * params.group;
    let head = row % heads;
    let query = (row / heads) % params.q_tiles;
    let batch = row / heads / params.q_tiles;
    let s = sequence(batch);
    return QueryRow(
        s, batch_of(batch), head, head / params.group, s.q_start + query, s.diagonal + i32(query), query < s.q_len,
    );
}
