// Causal, aligned to the bottom right: the query at position p = i + kv_len - q_len sees keys up to p.

fn keys_seen(first: i32, last: i32, kv_len: i32) -> vec2<i32> {
    return vec2<i32>(0, clamp(last + 1, 0, kv_len));
}

fn keys_shared(first: i32, last: i32, kv_len: i32) -> vec2<i32> {
    return vec2<i32>(0, clamp(first + 1, 0, kv_len));
}

fn sees(position: vec4<i32>, key: i32) -> vec4<bool> {
    return vec4<i32>(key) <= position;
}

fn unseen(seen: vec2<i32>, keys: vec4<i32>) -> vec4<bool> {
    return keys >= vec4<i32>(seen.y);  // seen.x is the first key
}

fn positions_seeing(first: i32, last: i32) -> vec2<i32> {
    return vec2<i32>(first, 1 << 29u);
}
