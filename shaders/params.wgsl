// The one uniform block of every attention kernel, and how a tensor is addressed.
// Mirrored by src/params.rs; a test compares both by reflection.

// Where a tensor's rows lie. A unit is what one array element of the binding holds: 8 storage elements for tensors
// that are read (q, k, v, dout; out and a2 by the backward), 4 for tensors that are written (out, a2, dq, dk, dv), 1 for
// f32 tensors (lam, lse and their gradients), and one struct for terms.
struct View {
    base: u32,   // units from the start of the binding
    batch: u32,  // units between sequences
    seq: u32,    // units between tokens
    head: u32,   // units between heads
}

struct Params {
    q: View,
    k: View,
    v: View,
    lam: View,
    out: View,
    lse: View,
    a2: View,
    // Of the backward pass.
    dout: View,
    dlse: View,
    dq: View,
    dk: View,
    dv: View,
    dlam: View,
    terms: View,
    // Extents of this dispatch; the sizes that the compiler must know are constants of the generated header.
    batch: u32,
    kv_heads: u32,
    head_tiles: u32,  // tiles of the output heads that share one KV head
    q_tiles: u32,     // tiles of the longest sequence's queries
    tiles: u32,       // product of the four: workgroups that have work (naive kernel: invocations)
    grid_width: u32,  // workgroups along x; the grid is folded where one dimension is too short
    group: u32,       // output heads that share one KV head
    // Every sequence of an even batch; packed batches read the `sequences` binding instead.
    q_len: u32,
    kv_len: u32,
    diagonal: i32,    // key position of the dispatch's first query: kv_len - q_len + queries before the dispatch
    left: i32,        // keys seen before the query's own position (window masks)
    right: i32,       // keys seen after it (window masks)
    scale: f32,       // of q·k; already times log2(e), unless softcapped
    softcap: f32,     // in units of natural logits
    accumulate: u32,  // 1 where gradients are added to what is there
    has_dlse: u32,    // 1 where the loss reads the LSE; otherwise `dlse` is bound to something else
}

@group(0) @binding(0) var<uniform> params: Params;

fn row_of(view: View, batch: u32, token: u32, head: u32) -> u32 {
    return view.base + batch * view.batch + token * view.seq + head * view.head;
}

// One sequence as the tile sees it.
struct Sequence {
    q_start: u32,
    q_len: u32,
    kv_start: u32,
    kv_len: u32,
    diagonal: i32,
}

const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
