// A window: the query at position p = i + kv_len - q_len sees keys p - left ..= p + right. An open side is 2^29.

fn keys_seen(first: i32, last: i32, kv_len: i32) -> vec2<i32> {
    return clamp(vec2<i32>(first - params.left, last + params.right + 1), vec2<i32>(0), vec2<i32>(kv_len));
}

fn keys_shared(first: i32, last: i32, kv_len: i32) -> vec2<i32> {
    return clamp(vec2<i32>(last - params.left, first + params.right + 1), vec2<i32>(0), vec2<i32>(kv_len));
}

fn sees(position: vec4<i32>, key: i32) -> vec4<bool> {
    let distance = vec4<i32>(key) - position;
    return (distance >= vec4<i32>(-params.left)) & (distance <= vec4<i32>(params.right));
}

fn unseen(seen: vec2<i32>, keys: vec4<i32>) -> vec4<bool> {
    return (keys < vec4<i32>(seen.x)) | (keys >= vec4<i32>(seen.y));
}

fn positions_seeing(first: i32, last: i32) -> vec2<i32> {
    return vec2<i32>(first - params.right, last + params.left + 1);
}
