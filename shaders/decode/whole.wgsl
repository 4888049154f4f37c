// One workgroup has all keys of its rows: the pair is normalised, gated and written at once.
@group(0) @binding(4) var<storage, read> lam: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Elem4>;

// `row` is that of member 1.
fn write_pair(at: Place, row: u32, octet: u32, o1: F32x8, o2: F32x8, row_max: vec2<f32>, row_sum: vec2<f32>) {
    let query_head = at.kv_head * 2u * params.group + row % (2u * params.group);
    let token = at.e.q_start + query_of(at, row);
    let scale1 = normaliser(row_max.x, row_sum.x);
    let scale2 = normaliser(row_max.y, row_sum.y) * gate_of(lam[row_of(params.lam, 0u, token, query_head / 2u)]);
    let out_row = row_of(params.out, 0u, token, query_head / 2u) + 2u * octet;
    out[out_row] = pack4(o1.lo * scale1 - o2.lo * scale2);
    out[out_row + 1u] = pack4(o1.hi * scale1 - o2.hi * scale2);
    if (octet == 0u) {
        write_lse(0u, query_head, token, row_max.x, row_sum.x);
        write_lse(0u, query_head + 1u, token, row_max.y, row_sum.y);
    }
}
