// The uniform block of the kernels around a KV cache, and the cache's directory.
// Mirrored by src/params.rs; a test compares both by reflection.

struct Params {
    // Tokens of one step lie one after another; none of these has a batch axis.
    q: View,
    lam: View,
    out: View,
    lse: View,
    new_k: View,      // what is appended
    new_v: View,
    batch: u32,       // sequences of a step, at most
    q_len: u32,       // new tokens of one sequence, at most
    kv_heads: u32,
    group: u32,       // output heads that share one KV head
    row_tiles: u32,   // workgroups that share the rows of one KV head
    splits: u32,      // workgroups that share the keys
    workgroups: u32,  // that have work (merge and append: invocations)
    grid_width: u32,  // workgroups along x; the grid is folded where one dimension is too short
    places: u32,      // tokens of a block: of a page, or of a whole sequence
    pages: u32,       // entries of one sequence's block table
    table: u32,       // word of the directory that the first block table starts with
    first_unit: u32,  // (block, KV head) that the bound part of the cache starts with, and ends before
    end_unit: u32,
    left: i32,        // keys seen before the query's own position (window masks)
    right: i32,       // keys seen after it (window masks)
    scale: f32,       // of q·k; already times log2(e), unless softcapped
    softcap: f32,     // in units of natural logits
}

@group(0) @binding(0) var<uniform> params: Params;
// For each entry of the batch (sequence, first new token, new tokens, cached tokens with them); then the block tables.
@group(0) @binding(8) var<storage, read> directory: array<u32>;

// What one step does with one sequence.
struct Entry {
    sequence: u32,
    q_start: u32,
    q_len: u32,
    kv_len: u32,
}

fn entry(b: u32) -> Entry {
    let q_start = directory[4u * b + 1u];
    let q_len = directory[4u * b + 2u];
    // More tokens than planned would be out of bounds. `encode` refuses them, but a later step may be in the directory by
    // the time this one runs.
    let within = q_len <= params.q_len && q_start <= params.batch * params.q_len - q_len;
    return Entry(directory[4u * b], q_start, select(0u, q_len, within), directory[4u * b + 3u]);
}

const HEAD_OCTETS: u32 = HEAD_DIM / 8u;
const VALUE_OCTETS: u32 = VALUE_DIM / 8u;
