// Appends new tokens to a KV cache: one row of K or V for each invocation. Workgroup memory: none. Barriers: none.

@group(0) @binding(10) var<storage, read> new_k: array<Elem8>;
@group(0) @binding(11) var<storage, read> new_v: array<Elem8>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group.x + group.y * params.grid_width) * THREADS + lane;
    let is_value = i % 2u == 1u;
    let kv_head = i / 2u % params.kv_heads;
    let token = i / 2u / params.kv_heads % params.q_len;
    let b = i / 2u / params.kv_heads / params.q_len;
    if (b >= params.batch) {
        return;
    }
    let e = entry(b);
    if (token >= e.q_len || !is_bound(e.sequence, kv_head)) {
        return;
    }
    let row = row_of_key(start_of_keys(e.sequence, kv_head), kv_head, e.kv_len - e.q_len + token);
    if (is_value) {
        append_v(row, row_of(params.new_v, 0u, e.q_start + token, kv_head));
    } else {
        append_k(row, row_of(params.new_k, 0u, e.q_start + token, kv_head));
    }
}
