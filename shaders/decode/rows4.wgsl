// A pack of four rows: two pairs of one KV head, or of the same head at two tokens.

alias Rows = vec4<f32>;
const PACK: u32 = 4u;

// Eight output elements of each row.
struct Octets {
    r0: F32x8,
    r1: F32x8,
    r2: F32x8,
    r3: F32x8,
}

fn read_query(at: Place, row: u32, octet: u32) -> Query {
    let a = unpack8(q[q_row(at, row) + octet]);
    let b = unpack8(q[q_row(at, row + 1u) + octet]);
    let c = unpack8(q[q_row(at, row + 2u) + octet]);
    let d = unpack8(q[q_row(at, row + 3u) + octet]);
    return Query(
        Rows(a.lo.x, b.lo.x, c.lo.x, d.lo.x), Rows(a.lo.y, b.lo.y, c.lo.y, d.lo.y),
        Rows(a.lo.z, b.lo.z, c.lo.z, d.lo.z), Rows(a.lo.w, b.lo.w, c.lo.w, d.lo.w),
        Rows(a.hi.x, b.hi.x, c.hi.x, d.hi.x), Rows(a.hi.y, b.hi.y, c.hi.y, d.hi.y),
        Rows(a.hi.z, b.hi.z, c.hi.z, d.hi.z), Rows(a.hi.w, b.hi.w, c.hi.w, d.hi.w),
    );
}

fn score_rows(qk: Rows) -> Rows {
    return score4(qk);
}

// The scores of the rows that see the key.
fn hide_unseen(at: Place, row: u32, diagonal: i32, key: i32, exists: bool, score: Rows) -> Rows {
    let position = vec4<i32>(diagonal) + vec4<i32>(vec4<u32>(
        query_of(at, row), query_of(at, row + 1u), query_of(at, row + 2u), query_of(at, row + 3u)));
    return select(Rows(UNSEEN), score, sees(position, key) & vec4<bool>(exists));
}

fn add_weighted(acc: Octets, weight: Rows, x: F32x8) -> Octets {
    return Octets(
        F32x8(fma(vec4<f32>(weight.x), x.lo, acc.r0.lo), fma(vec4<f32>(weight.x), x.hi, acc.r0.hi)),
        F32x8(fma(vec4<f32>(weight.y), x.lo, acc.r1.lo), fma(vec4<f32>(weight.y), x.hi, acc.r1.hi)),
        F32x8(fma(vec4<f32>(weight.z), x.lo, acc.r2.lo), fma(vec4<f32>(weight.z), x.hi, acc.r2.hi)),
        F32x8(fma(vec4<f32>(weight.w), x.lo, acc.r3.lo), fma(vec4<f32>(weight.w), x.hi, acc.r3.hi)),
    );
}

fn scaled(acc: Octets, by: Rows) -> Octets {
    return Octets(
        F32x8(acc.r0.lo * by.x, acc.r0.hi * by.x), F32x8(acc.r1.lo * by.y, acc.r1.hi * by.y),
        F32x8(acc.r2.lo * by.z, acc.r2.hi * by.z), F32x8(acc.r3.lo * by.w, acc.r3.hi * by.w),
    );
}

fn sum_octets(lane: u32, x: Octets) -> Octets {
    return Octets(
        sum_octet(lane, x.r0), sum_octet(lane, x.r1), sum_octet(lane, x.r2), sum_octet(lane, x.r3));
}

// Those of the pack's pairs that exist: rows are numbered up to `rows`.
fn write_pairs(at: Place, row: u32, rows: u32, octet: u32, x: Octets, row_max: Rows, row_sum: Rows) {
    if (row < rows) {
        write_pair(at, row, octet, x.r0, x.r1, row_max.xy, row_sum.xy);
    }
    if (row + 2u < rows) {
        write_pair(at, row + 2u, octet, x.r2, x.r3, row_max.zw, row_sum.zw);
    }
}
