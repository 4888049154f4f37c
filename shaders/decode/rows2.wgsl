// A pack of two rows: one pair, where a KV head has no more (one output head for each KV head, and one new token).

alias Rows = vec2<f32>;
const PACK: u32 = 2u;

// Eight output elements of each row.
struct Octets {
    r0: F32x8,
    r1: F32x8,
}

fn read_query(at: Place, row: u32, octet: u32) -> Query {
    let a = unpack8(q[q_row(at, row) + octet]);
    let b = unpack8(q[q_row(at, row + 1u) + octet]);
    return Query(
        Rows(a.lo.x, b.lo.x), Rows(a.lo.y, b.lo.y), Rows(a.lo.z, b.lo.z), Rows(a.lo.w, b.lo.w),
        Rows(a.hi.x, b.hi.x), Rows(a.hi.y, b.hi.y), Rows(a.hi.z, b.hi.z), Rows(a.hi.w, b.hi.w),
    );
}

fn score_rows(qk: Rows) -> Rows {
    return score4(qk.xyxy).xy;
}

// The scores of the rows that see the key.
fn hide_unseen(at: Place, row: u32, diagonal: i32, key: i32, exists: bool, score: Rows) -> Rows {
    let position = vec2<i32>(diagonal) + vec2<i32>(vec2<u32>(query_of(at, row), query_of(at, row + 1u)));
    return select(Rows(UNSEEN), score, sees(position.xyxy, key).xy & vec2<bool>(exists));
}

fn add_weighted(acc: Octets, weight: Rows, x: F32x8) -> Octets {
    return Octets(
        F32x8(fma(vec4<f32>(weight.x), x.lo, acc.r0.lo), fma(vec4<f32>(weight.x), x.hi, acc.r0.hi)),
        F32x8(fma(vec4<f32>(weight.y), x.lo, acc.r1.lo), fma(vec4<f32>(weight.y), x.hi, acc.r1.hi)),
    );
}

fn scaled(acc: Octets, by: Rows) -> Octets {
    return Octets(
        F32x8(acc.r0.lo * by.x, acc.r0.hi * by.x), F32x8(acc.r1.lo * by.y, acc.r1.hi * by.y));
}

fn sum_octets(lane: u32, x: Octets) -> Octets {
    return Octets(sum_octet(lane, x.r0), sum_octet(lane, x.r1));
}

// The pack's pair, if it exists: rows are numbered up to `rows`.
fn write_pairs(at: Place, row: u32, rows: u32, octet: u32, x: Octets, row_max: Rows, row_sum: Rows) {
    if (row < rows) {
        write_pair(at, row, octet, x.r0, x.r1, row_max, row_sum);
    }
}
