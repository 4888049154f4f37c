// A contiguous cache: block s holds sequence s, [block][KV head][place].

// Whether the bound part of the cache has the keys of a sequence and head; others are another dispatch's.
fn is_bound(sequence: u32, kv_head: u32) -> bool {
    let unit = sequence * params.kv_heads + kv_head;
    return unit >= params.first_unit && unit < params.end_unit;
}

// Where the keys of a sequence and head start: row_of_key's part that is the same for all of them.
fn start_of_keys(sequence: u32, kv_head: u32) -> u32 {
    return (sequence * params.kv_heads + kv_head - params.first_unit) * params.places;
}

// The row of a key; the elements of row r start at r * HEAD_OCTETS.
fn row_of_key(start: u32, kv_head: u32, key: u32) -> u32 {
    return start + key;
}
