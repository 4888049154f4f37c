// A contiguous cache: block s holds sequence s, [block][KV head][place].

// Whether the bound part of the cache has the keys of a sequence and head; others are another dispatch's.
fn is_bound(sequence: u32, kv_head: u32) -> bool {
    let unit = sequence * params.kv_heads + kv_head;
    return unit >= params.first_unit && unit < params.end_unit;
}

// The row of a key; the elements of row r start at r * HEAD_OCTETS.
fn row_of_key(sequence: u32, kv_head: u32, key: u32) -> u32 {
    return (sequence * params.kv_heads + kv_head - params.first_unit) * params.places + key;
}
