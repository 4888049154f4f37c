// No mask: every query sees every key.

// Keys [x, y) that some of the queries at positions first..=last sees: of one position, exactly those that it sees.
fn keys_seen(first: i32, last: i32, kv_len: i32) -> vec2<i32> {
    return vec2<i32>(0, kv_len);
}

// Keys [x, y) that all of them see.
fn keys_shared(first: i32, last: i32, kv_len: i32) -> vec2<i32> {
    return vec2<i32>(0, kv_len);
}

// Whether the queries at four positions see a key (that exists).
fn sees(position: vec4<i32>, key: i32) -> vec4<bool> {
    return vec4<bool>(true);
}

// Which of some keys a query does not see that sees keys [seen.x, seen.y).
fn unseen(seen: vec2<i32>, keys: vec4<i32>) -> vec4<bool> {
    return keys >= vec4<i32>(seen.y);
}

// Positions [x, y) that see some of the keys first..=last; an open side lies beyond every position.
fn positions_seeing(first: i32, last: i32) -> vec2<i32> {
    return vec2<i32>(-(1 << 29u), 1 << 29u);
}
