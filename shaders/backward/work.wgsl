// Which pairs a workgroup of a sweep over keys owns.
//
// PAIRS consecutive pairs of one sequence and KV head, numbered query · group + head of the group, so that the heads of a
// group always share K and V, and tiles are full whatever the group.

// What a workgroup works on; nothing where `pairs` is 0.
struct Work {
    s: Sequence,
    batch: u32,
    kv_head: u32,
    first: u32,
    pairs: u32,
}

fn work_of(tile: u32) -> Work {
    if (tile >= params.tiles) {
        return Work();
    }
    // Tiles of one KV head run side by side; late queries come first, since under a causal mask they see the most keys.
    let rest = tile / params.kv_heads;
    let s = sequence(rest % params.batch);
    let first = (params.q_tiles - 1u - rest / params.batch) * PAIRS;
    let pairs = s.q_len * params.group;
    return Work(s, batch_of(rest % params.batch), tile % params.kv_heads, first, select(0u, pairs, first < pairs));
}

// Positions of the first and the last query of the tile.
fn span_of(work: Work) -> vec2<i32> {
    let last = min(work.first + PAIRS, work.pairs) - 1u;
    return vec2<i32>(work.s.diagonal) + vec2<i32>(vec2<u32>(work.first, last) / params.group);
}
