// A paged cache: each sequence's block table names its pages, [page][KV head][place].

// Whether the bound part of the cache has the keys of a sequence and head: pages are always bound together.
fn is_bound(sequence: u32, kv_head: u32) -> bool {
    return true;
}

// Where the keys of a sequence start, in its block table: row_of_key's part that is the same for all of them.
fn start_of_keys(sequence: u32, kv_head: u32) -> u32 {
    return params.table + sequence * params.pages;
}

// The row of a key; the elements of row r start at r * HEAD_OCTETS.
fn row_of_key(start: u32, kv_head: u32, key: u32) -> u32 {
    let page = directory[start + key / params.places];
    return (page * params.kv_heads + kv_head) * params.places + key % params.places;
}
