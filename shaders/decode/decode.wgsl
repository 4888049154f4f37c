// DIFF V2 decode: few new tokens against a long cache. Bound by reading K and V, so each is read once.
//
// A workgroup owns one split of the keys of one sequence and KV head, for ROWS packed query rows: (new token, output
// head of the KV group, member). Invocations form a grid of ROW_LANES × KEY_LANES; each has ROW_PACKS packs of PACK rows,
// a vector (`Rows`) holding one value for each row of a pack. For every tile of KEYS keys, an invocation computes the
// scores of its rows at KEYS_PER_LANE keys (PARTS neighbours share a key's elements), then adds to its rows of eight
// output elements. Where the output has fewer octets than there are key lanes, GROUPS groups of lanes take every
// GROUPS-th key.
//
// Few rows (not STAGED; ROW_LANES = 1): K and V go from the cache straight to registers, AHEAD octets at a time; Q
// stays in workgroup memory. The keys of the next tile are loaded beside the values of this one, and multiplied last, so
// that one wait for memory serves both.
// Many rows (STAGED): K, then V in its place, are shared through workgroup memory as they are stored; Q is re-read.
// Either way each element of K and V is loaded once, whatever the number of rows in the workgroup; but the last key
// that is seen also stands for those that the last tile lacks, since that costs less than not to load.
//
// Workgroup memory, in bytes: 4 · ROWS · (COLUMNS + KEYS), and
//     Q_SLOTS · 4 · PACK (few rows), KV_SLOTS · 8 · element size (many rows), 16 · THREADS where GROUPS > 1.
// Barriers per key tile: maxima shared; weights shared. STAGED: also K loaded; tile done.
// Numerics: online softmax in base 2, f32 throughout; each lane sums its own keys, merged once at the end.
// Keys that do not exist get a weight of 0, which their stand-in's values are multiplied by.
// Source: "Differential Transformer V2" (Microsoft, 2026); split keys as in Flash-Decoding (Dao et al., 2023).

@group(0) @binding(1) var<storage, read> q: array<Elem8>;
@group(0) @binding(2) var<storage, read> k: array<CacheElem>;
@group(0) @binding(3) var<storage, read> v: array<CacheElem>;

const ROW_LANES: u32 = THREADS / KEY_LANES;
const PACKS: u32 = ROW_PACKS * ROW_LANES;  // of rows, in the workgroup
const ROWS: u32 = PACK * PACKS;
const COLUMNS: u32 = KEY_LANES / PARTS;
const KEYS: u32 = COLUMNS * KEYS_PER_LANE;
const GROUP_LANES: u32 = min(KEY_LANES, VALUE_OCTETS);
const GROUPS: u32 = KEY_LANES / GROUP_LANES;
// What one lane reads of a tile of K: KEY_OCTETS of KEYS_PER_LANE keys, KEY_AHEAD of each at a time.
const KEY_OCTETS: u32 = (HEAD_OCTETS + PARTS - 1u) / PARTS;
const KEY_AHEAD: u32 = clamp(AHEAD / KEYS_PER_LANE, 1u, KEY_OCTETS);
const WHOLE_OCTETS: bool = HEAD_OCTETS % (PARTS * KEY_AHEAD) == 0u;  // no lane goes beyond the last octet
// And of V: OCTETS_PER_LANE of GROUP_KEYS keys, VALUE_AHEAD keys at a time.
const GROUP_KEYS: u32 = (KEYS + GROUPS - 1u) / GROUPS;
const VALUE_AHEAD: u32 = clamp(AHEAD / OCTETS_PER_LANE, 1u, GROUP_KEYS);
const WHOLE_KEYS: bool = KEYS % (GROUPS * VALUE_AHEAD) == 0u;  // no lane goes beyond the tile's last key
const EARLY: bool = AHEAD > 1u && !STAGED;  // whether V's first ones are loaded before scores are exchanged
alias Values = array<CacheElem, VALUE_AHEAD * OCTETS_PER_LANE>;

var<workgroup> wg_q: array<Rows, Q_SLOTS>;                 // [element][pack], unless STAGED
var<workgroup> wg_kv: array<CacheElem, KV_SLOTS>;          // [key][octet], where STAGED: K, then V
var<workgroup> wg_column: array<Rows, PACKS * COLUMNS>;    // [pack][column]: maxima; sums at the end
var<workgroup> wg_weight: array<Rows, PACKS * KEYS>;       // [pack][key]
var<workgroup> wg_merge: array<vec4<f32>, MERGE_SLOTS>;    // [lane], where GROUPS > 1

// Where the workgroup stands.
struct Place {
    b: u32,
    kv_head: u32,
    split: u32,
    first_row: u32,
    e: Entry,
    keys: u32,  // where its keys start: see row_of_key
}

// Eight elements of a pack's rows of Q: one vector for each element.
struct Query {
    e0: Rows,
    e1: Rows,
    e2: Rows,
    e3: Rows,
    e4: Rows,
    e5: Rows,
    e6: Rows,
    e7: Rows,
}

// The query of a row, as an index within the step's tokens of its sequence; rows beyond the last are copies of it.
fn query_of(at: Place, row: u32) -> u32 {
    return min(row / (2u * params.group), at.e.q_len - 1u);
}

fn q_row(at: Place, row: u32) -> u32 {
    let rows = 2u * params.group;
    return row_of(params.q, 0u, at.e.q_start + query_of(at, row), at.kv_head * rows + row % rows);
}

// Q of every row, as f32; visible from the next barrier on.
fn stage_q(at: Place, lane: u32) {
    for (var i = lane; i < PACKS * HEAD_OCTETS; i += THREADS) {
        let x = read_query(at, at.first_row + PACK * (i % PACKS), i / PACKS);
        let slot = (i / PACKS) * 8u * PACKS + i % PACKS;
        wg_q[slot] = x.e0;
        wg_q[slot + PACKS] = x.e1;
        wg_q[slot + 2u * PACKS] = x.e2;
        wg_q[slot + 3u * PACKS] = x.e3;
        wg_q[slot + 4u * PACKS] = x.e4;
        wg_q[slot + 5u * PACKS] = x.e5;
        wg_q[slot + 6u * PACKS] = x.e6;
        wg_q[slot + 7u * PACKS] = x.e7;
    }
}

fn query_octet(at: Place, pack: u32, octet: u32) -> Query {
    if (STAGED) {
        return read_query(at, at.first_row + PACK * pack, octet);
    }
    let slot = octet * 8u * PACKS + pack;
    return Query(
        wg_q[slot], wg_q[slot + PACKS], wg_q[slot + 2u * PACKS], wg_q[slot + 3u * PACKS],
        wg_q[slot + 4u * PACKS], wg_q[slot + 5u * PACKS], wg_q[slot + 6u * PACKS], wg_q[slot + 7u * PACKS],
    );
}

fn load_k(row: u32, octet: u32) -> CacheElem {
    count_k(row * HEAD_OCTETS + octet);
    return k[row * HEAD_OCTETS + octet];
}

fn load_v(row: u32, octet: u32) -> CacheElem {
    count_v(row * VALUE_OCTETS + octet);
    return v[row * VALUE_OCTETS + octet];
}

// What a lane multiplies next of V: VALUE_AHEAD keys from the `first`-th of its group on. Keys from `count` on do not
// exist: the last one stands for them.
fn load_values(at: Place, first_key: u32, count: u32, group: u32, first: u32, lane: u32) -> Values {
    var values = Values();
    for (var n = 0u; n < VALUE_AHEAD; n++) {
        let key = group + (first + n) * GROUPS;
        if (WHOLE_KEYS || key < KEYS) {
            let existing = min(key, count - 1u);
            let row = row_of_key(at.keys, at.kv_head, first_key + existing);
            for (var j = 0u; j < OCTETS_PER_LANE; j++) {
                let octet = lane % GROUP_LANES + j * GROUP_LANES;
                if (VALUE_OCTETS % GROUP_LANES == 0u || octet < VALUE_OCTETS) {
                    if (STAGED) {
                        values[n * OCTETS_PER_LANE + j] = wg_kv[existing * KV_STRIDE + octet];
                    } else {
                        values[n * OCTETS_PER_LANE + j] = load_v(row, octet);
                    }
                }
            }
        }
    }
    return values;
}

// A lane's keys of a tile, on their way: KEY_AHEAD octets of each, from the `first`-th of its part on.
struct Keys {
    existing: array<u32, KEYS_PER_LANE>,  // places in the tile
    row: array<u32, KEYS_PER_LANE>,       // in the cache
    octets: array<CacheElem, KEY_AHEAD * KEYS_PER_LANE>,
}

fn load_octets(loaded: ptr<function, Keys>, part: u32, first: u32) {
    for (var j = 0u; j < KEY_AHEAD; j++) {
        let octet = part + (first + j) * PARTS;
        for (var n = 0u; n < KEYS_PER_LANE; n++) {
            if (WHOLE_OCTETS || octet < HEAD_OCTETS) {
                if (STAGED) {
                    (*loaded).octets[j * KEYS_PER_LANE + n] = wg_kv[(*loaded).existing[n] * KV_STRIDE + octet];
                } else {
                    (*loaded).octets[j * KEYS_PER_LANE + n] = load_k((*loaded).row[n], octet);
                }
            }
        }
    }
}

// Those of the tile of `count` keys from `first_key` on.
fn load_keys(at: Place, first_key: u32, count: u32, column: u32, part: u32) -> Keys {
    var loaded = Keys();
    for (var n = 0u; n < KEYS_PER_LANE; n++) {
        loaded.existing[n] = min(n * COLUMNS + column, count - 1u);
        loaded.row[n] = row_of_key(at.keys, at.kv_head, first_key + loaded.existing[n]);
    }
    load_octets(&loaded, part, 0u);
    return loaded;
}

// A lane's share of q·k for its rows and keys, and the factor of each key's values.
struct Scores {
    qk: array<Rows, ROW_PACKS * KEYS_PER_LANE>,
    factor: array<f32, KEYS_PER_LANE>,
}

fn multiply_keys(at: Place, loaded: ptr<function, Keys>, part: u32, first_pack: u32) -> Scores {
    var factor = array<vec2<f32>, KEYS_PER_LANE>();  // on their way while the products are made
    for (var n = 0u; n < KEYS_PER_LANE; n++) {
        factor[n] = scales_of((*loaded).row[n]);
    }
    // Zero in words: see forward.wgsl.
    var scores = Scores();
    for (var first = 0u; first < KEY_OCTETS; first += KEY_AHEAD) {
        if (first > 0u) {
            load_octets(loaded, part, first);
        }
        for (var j = 0u; j < KEY_AHEAD; j++) {
            let octet = part + (first + j) * PARTS;
            var unpacked = array<F32x8, KEYS_PER_LANE>();
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                unpacked[n] = unpack_cache((*loaded).octets[j * KEYS_PER_LANE + n]);
            }
            if (WHOLE_OCTETS || octet < HEAD_OCTETS) {
                for (var r = 0u; r < ROW_PACKS; r++) {
                    let a = query_octet(at, first_pack + r, octet);
                    for (var n = 0u; n < KEYS_PER_LANE; n++) {
                        let i = r * KEYS_PER_LANE + n;
                        scores.qk[i] = multiply_rows(scores.qk[i], a, unpacked[n]);
                    }
                }
            }
        }
    }
    for (var n = 0u; n < KEYS_PER_LANE; n++) {
        scores.factor[n] = factor[n].y;
        for (var r = 0u; r < ROW_PACKS; r++) {
            scores.qk[r * KEYS_PER_LANE + n] *= factor[n].x;
        }
    }
    return scores;
}

// Keys from `count` on are not staged, here and for V.
fn stage_k(at: Place, lane: u32, first_key: u32, count: u32) {
    for (var i = lane; i < min(KEYS, count) * HEAD_OCTETS; i += THREADS) {
        let key = i / HEAD_OCTETS;
        let row = row_of_key(at.keys, at.kv_head, first_key + key);
        wg_kv[key * KV_STRIDE + i % HEAD_OCTETS] = load_k(row, i % HEAD_OCTETS);
    }
}

fn stage_v(at: Place, lane: u32, first_key: u32, count: u32) {
    for (var i = lane; i < min(KEYS, count) * VALUE_OCTETS; i += THREADS) {
        let key = i / VALUE_OCTETS;
        let row = row_of_key(at.keys, at.kv_head, first_key + key);
        wg_kv[key * KV_STRIDE + i % VALUE_OCTETS] = load_v(row, i % VALUE_OCTETS);
    }
}

// acc + q · x for a pack of rows.
fn multiply_rows(acc: Rows, a: Query, x: F32x8) -> Rows {
    var sum = fma(a.e0, Rows(x.lo.x), acc);
    sum = fma(a.e1, Rows(x.lo.y), sum);
    sum = fma(a.e2, Rows(x.lo.z), sum);
    sum = fma(a.e3, Rows(x.lo.w), sum);
    sum = fma(a.e4, Rows(x.hi.x), sum);
    sum = fma(a.e5, Rows(x.hi.y), sum);
    sum = fma(a.e6, Rows(x.hi.z), sum);
    return fma(a.e7, Rows(x.hi.w), sum);
}

// Sum over the lanes that took other keys for the same rows and elements; right in the first group's lanes.
fn sum_groups(lane: u32, x: vec4<f32>) -> vec4<f32> {
    if (GROUPS == 1u) {
        return x;
    }
    workgroupBarrier();
    wg_merge[lane % MERGE_SLOTS] = x;
    workgroupBarrier();
    var sum = x;
    for (var i = 1u; i < GROUPS; i++) {
        sum += wg_merge[(lane + i * GROUP_LANES) % MERGE_SLOTS];
    }
    return sum;
}

fn sum_octet(lane: u32, x: F32x8) -> F32x8 {
    return F32x8(sum_groups(lane, x.lo), sum_groups(lane, x.hi));
}

fn run(workgroup: u32, lane: u32) {
    if (workgroup >= params.workgroups) {
        return;
    }
    var at: Place;
    at.split = workgroup % params.splits;
    at.first_row = (workgroup / params.splits % params.row_tiles) * ROWS;
    let unit = workgroup / params.splits / params.row_tiles;
    at.kv_head = unit % params.kv_heads;
    at.b = unit / params.kv_heads;
    at.e = entry(at.b);
    let rows = at.e.q_len * 2u * params.group;
    if (at.first_row >= rows || !is_bound(at.e.sequence, at.kv_head)) {
        return;
    }
    // Once: some drivers do not take it out of the loops over keys.
    at.keys = start_of_keys(at.e.sequence, at.kv_head);
    // What is the same for all lanes is spelled out: drivers that see it load once instead of once for each lane.
    let first_pack = select(lane / KEY_LANES * ROW_PACKS, 0u, ROW_LANES == 1u);
    let key_lane = select(lane % KEY_LANES, lane, ROW_LANES == 1u);
    let column = key_lane / PARTS;
    let part = select(key_lane % PARTS, 0u, PARTS == 1u);
    let group = select(group_of(key_lane), 0u, KEY_LANES == GROUP_LANES);

    // This split's share of the keys that some row sees: whole tiles, at least two where there are any.
    let diagonal = i32(at.e.kv_len) - i32(at.e.q_len);
    let first_position = diagonal + i32(query_of(at, at.first_row));
    let last_position = diagonal + i32(query_of(at, at.first_row + ROWS - 1u));
    let seen = keys_seen(first_position, last_position, i32(at.e.kv_len));
    let shared_keys = keys_shared(first_position, last_position, i32(at.e.kv_len));
    let tiles = (u32(max(seen.y - seen.x, 0)) + KEYS - 1u) / KEYS;
    let split_keys = max(2u, (tiles + params.splits - 1u) / params.splits) * KEYS;
    let start = u32(seen.x) + at.split * split_keys;
    let end = min(start + split_keys, u32(seen.y));

    if (!STAGED) {
        stage_q(at, lane);
        workgroupBarrier();
    }
    var row_max: array<Rows, ROW_PACKS>;
    var row_sum: array<Rows, ROW_PACKS>;  // over this lane's keys only
    for (var r = 0u; r < ROW_PACKS; r++) {
        row_max[r] = Rows(NO_KEY);
    }
    var o: array<Octets, ROW_PACKS * OCTETS_PER_LANE>;

    var scores: Scores;
    if (!STAGED && start < end) {
        var loaded = load_keys(at, start, end - start, column, part);
        scores = multiply_keys(at, &loaded, part, first_pack);
    }
    for (var first_key = start; first_key < end; first_key += KEYS) {
        let count = end - first_key;
        if (STAGED) {
            stage_k(at, lane, first_key, count);
            workgroupBarrier();
            var staged = load_keys(at, first_key, count, column, part);
            scores = multiply_keys(at, &staged, part, first_pack);
        }
        // On their way while scores are exchanged.
        let has_next = !STAGED && count > KEYS;
        var next = Keys();
        if (has_next) {
            next = load_keys(at, first_key + KEYS, count - KEYS, column, part);
        }
        var values = Values();
        if (EARLY && group < GROUPS) {
            values = load_values(at, first_key, count, group, 0u, key_lane);
        }
        // Only tiles at an edge of the mask or of the keys pay for comparisons.
        let edge = i32(first_key) < shared_keys.x || i32(first_key + KEYS) > min(shared_keys.y, i32(end));
        var lane_max = array<Rows, ROW_PACKS>();
        for (var r = 0u; r < ROW_PACKS; r++) {
            lane_max[r] = row_max[r];
            let row = at.first_row + PACK * (first_pack + r);
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                let i = r * KEYS_PER_LANE + n;
                scores.qk[i] = score_rows(sum_parts(scores.qk[i]));
                if (edge) {
                    let key = n * COLUMNS + column;
                    scores.qk[i] = hide_unseen(at, row, diagonal, i32(first_key + key), key < count, scores.qk[i]);
                }
                lane_max[r] = max(lane_max[r], scores.qk[i]);
            }
            share_max(lane, first_pack + r, column, part, lane_max[r]);
        }
        workgroupBarrier();

        if (STAGED) {
            stage_v(at, lane, first_key, count);  // all have read K
        }
        for (var r = 0u; r < ROW_PACKS; r++) {
            let new_max = rows_max(first_pack + r);
            let keep = exp2(row_max[r] - new_max);
            row_max[r] = new_max;
            row_sum[r] *= keep;
            for (var n = 0u; n < KEYS_PER_LANE; n++) {
                let weight = exp2(scores.qk[r * KEYS_PER_LANE + n] - new_max);
                row_sum[r] += weight;
                if (part == 0u) {
                    wg_weight[(first_pack + r) * KEYS + n * COLUMNS + column] = weight * scores.factor[n];
                }
            }
            for (var j = 0u; j < OCTETS_PER_LANE; j++) {
                o[r * OCTETS_PER_LANE + j] = scaled(o[r * OCTETS_PER_LANE + j], keep);
            }
        }
        workgroupBarrier();

        if (group < GROUPS) {
            for (var first = 0u; first < GROUP_KEYS; first += VALUE_AHEAD) {
                if (!EARLY || first > 0u) {
                    values = load_values(at, first_key, count, group, first, key_lane);
                }
                for (var n = 0u; n < VALUE_AHEAD; n++) {
                    let key = group + (first + n) * GROUPS;
                    if (WHOLE_KEYS || key < KEYS) {
                        for (var j = 0u; j < OCTETS_PER_LANE; j++) {
                            let x = unpack_cache(values[n * OCTETS_PER_LANE + j]);
                            for (var r = 0u; r < ROW_PACKS; r++) {
                                let i = r * OCTETS_PER_LANE + j;
                                o[i] = add_weighted(o[i], wg_weight[(first_pack + r) * KEYS + key], x);
                            }
                        }
                    }
                }
            }
        }
        if (has_next) {
            scores = multiply_keys(at, &next, part, first_pack);
        }
        if (STAGED) {
            workgroupBarrier();
        }
    }

    workgroupBarrier();
    for (var r = 0u; r < ROW_PACKS; r++) {
        if (part == 0u) {
            wg_column[(first_pack + r) * COLUMNS + column] = row_sum[r];
        }
    }
    workgroupBarrier();
    for (var r = 0u; r < ROW_PACKS; r++) {
        var sum = Rows(0.0);
        for (var i = 0u; i < COLUMNS; i++) {
            sum += wg_column[(first_pack + r) * COLUMNS + i];
        }
        let row = at.first_row + PACK * (first_pack + r);
        for (var j = 0u; j < OCTETS_PER_LANE; j++) {
            let x = sum_octets(lane, o[r * OCTETS_PER_LANE + j]);
            let octet = key_lane % GROUP_LANES + j * GROUP_LANES;
            if (group == 0u && octet < VALUE_OCTETS) {
                write_pairs(at, row, rows, octet, x, row_max[r], sum);
            }
        }
    }
}
