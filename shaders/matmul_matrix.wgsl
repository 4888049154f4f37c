// Matrix product C[rows × columns] = A[rows × depth] · B[depth × columns] on matrix units, f16 × f16 → f32.
//
// A workgroup owns a tile of ROWS × COLUMNS elements of C; its subgroups form a grid, COLUMN_SUBGROUPS wide. Each owns
// ROW_STEPS × COLUMN_STEPS matrices of MAT × MAT as accumulators over the whole depth:
//
//     for MAT steps of depth: ROW_STEPS + COLUMN_STEPS matrix loads, ROW_STEPS · COLUMN_STEPS matrix products
//
// A and B come by way of workgroup memory, DEPTH steps at a time, in the order in which they lie in their buffers: lines
// along depth or across it, which A_ALONG_DEPTH and B_ALONG_DEPTH say. What comes next is read into registers while this
// is multiplied. C goes back through workgroup memory, since elements of a matrix cannot be touched in registers; what
// becomes of it is in matmul/write_*.wgsl, as in matmul.wgsl. Loops marked `unrolled` are written out by
// src/shader/unroll.rs where the tile says so.
//
// Workgroup memory: 2 · (A_SLOTS + B_SLOTS) + 4 · C_SLOTS bytes. Barriers: two for each DEPTH, two for each row of matrices.
// Numerics: operands as matmul/ab_*.wgsl give them, f32 sums. What lies beyond rows, columns or depth is read as zero.
// Source: register-blocked products as in Volkov & Demmel (2008).

@group(0) @binding(0) var<uniform> params: Params;

const ROWS: u32 = ROW_SUBGROUPS * ROW_STEPS * MAT;
const COLUMNS: u32 = COLUMN_SUBGROUPS * COLUMN_STEPS * MAT;
const THREADS: u32 = ROW_SUBGROUPS * COLUMN_SUBGROUPS * SUBGROUP;
const STRIP_QUADS: u32 = COLUMN_STEPS * MAT / 4u;  // of a row of one subgroup
// Quads of A and of B that one lane carries.
const A_SHARE: u32 = ROWS * DEPTH / 4u / THREADS;
const B_SHARE: u32 = COLUMNS * DEPTH / 4u / THREADS;

// Four neighbours of a line of A or B.
struct Quad {
    line: u32,
    quad: u32,
    exists: vec4<bool>,
}

// The i-th quad of an operand's part of the tile, which is `tile` rows (of A) or columns (of B) from `first` of `count`.
fn quad_of(i: u32, along_depth: bool, tile: u32, first: u32, count: u32, first_depth: u32) -> Quad {
    let quads = select(tile, DEPTH, along_depth) / 4u;
    let line = select(first_depth, first, along_depth) + i / quads;
    let quad = select(first, first_depth, along_depth) / 4u + i % quads;
    let place = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let lines = select(params.depth, count, along_depth);
    let len = select(count, params.depth, along_depth);
    return Quad(line, quad, vec4<bool>(line < lines) & (place < vec4<u32>(len)));
}

// Its place in workgroup memory.
fn slot_of(i: u32, along_depth: bool, tile: u32, stride: u32) -> u32 {
    let quads = select(tile, DEPTH, along_depth) / 4u;
    return i / quads * stride + 4u * (i % quads);
}

fn fetch_a(lane: u32, first_row: u32, first_depth: u32) -> array<vec4<f16>, A_SHARE> {
    var quads: array<vec4<f16>, A_SHARE>;
    for (var i = 0u; i < A_SHARE; i++) {
        let at = quad_of(lane + i * THREADS, A_ALONG_DEPTH, ROWS, first_row, params.rows, first_depth);
        if (at.exists.x) {
            let x = a4(params.a_base + at.line * params.a_stride + at.quad);
            quads[i] = select(vec4<f16>(), x, at.exists);
        }
    }
    return quads;
}

fn store_a(lane: u32, fetched: array<vec4<f16>, A_SHARE>) {
    var quads = fetched;
    for (var i = 0u; i < A_SHARE; i++) {
        put_a(slot_of(lane + i * THREADS, A_ALONG_DEPTH, ROWS, A_STRIDE), quads[i]);
    }
}

fn fetch_b(lane: u32, first_column: u32, first_depth: u32) -> array<vec4<f16>, B_SHARE> {
    var quads: array<vec4<f16>, B_SHARE>;
    for (var i = 0u; i < B_SHARE; i++) {
        let at = quad_of(lane + i * THREADS, B_ALONG_DEPTH, COLUMNS, first_column, params.columns, first_depth);
        if (at.exists.x) {
            let x = b4(params.b_base + at.line * params.b_stride + at.quad);
            quads[i] = select(vec4<f16>(), x, at.exists);
        }
    }
    return quads;
}

fn store_b(lane: u32, fetched: array<vec4<f16>, B_SHARE>) {
    var quads = fetched;
    for (var i = 0u; i < B_SHARE; i++) {
        put_b(slot_of(lane + i * THREADS, B_ALONG_DEPTH, COLUMNS, B_STRIDE), quads[i]);
    }
}

// The matrices at a row or column and a step of depth of what is in workgroup memory.
fn a_matrix(row: u32, depth: u32) -> MatA {
    if (A_ALONG_DEPTH) {
        return coopLoadT<MatA>(&wg_a[(row * A_STRIDE + depth) / CELL], A_STRIDE / CELL);
    }
    return coopLoad<MatA>(&wg_a[(depth * A_STRIDE + row) / CELL], A_STRIDE / CELL);
}

fn b_matrix(column: u32, depth: u32) -> MatB {
    if (B_ALONG_DEPTH) {
        return coopLoad<MatB>(&wg_b[(column * B_STRIDE + depth) / CELL], B_STRIDE / CELL);
    }
    return coopLoadT<MatB>(&wg_b[(depth * B_STRIDE + column) / CELL], B_STRIDE / CELL);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    let tile = group.x + group.y * params.grid_width;
    if (tile >= params.tiles) {
        return;
    }
    let first_row = tile / params.column_tiles * ROWS;
    let first_column = tile % params.column_tiles * COLUMNS;
    let lane = subgroup * SUBGROUP + invocation;
    // Within the tile, of this subgroup.
    let my_row = subgroup / COLUMN_SUBGROUPS * ROW_STEPS * MAT;
    let my_column = subgroup % COLUMN_SUBGROUPS * COLUMN_STEPS * MAT;

    var sum: array<MatC, ROW_STEPS * COLUMN_STEPS>;
    var a_quads = fetch_a(lane, first_row, 0u);
    var b_quads = fetch_b(lane, first_column, 0u);
    for (var depth = 0u; depth < params.depth; depth += DEPTH) {
        store_a(lane, a_quads);
        store_b(lane, b_quads);
        workgroupBarrier();
        // Beyond the last step nothing exists, so nothing is read.
        a_quads = fetch_a(lane, first_row, depth + DEPTH);
        b_quads = fetch_b(lane, first_column, depth + DEPTH);
        for (var k = 0u; k < DEPTH_STEPS; k++) { // unrolled
            var rows: array<MatA, ROW_STEPS>;
            for (var m = 0u; m < ROW_STEPS; m++) { // unrolled
                rows[m] = a_matrix(my_row + m * MAT, k * MAT);
            }
            for (var n = 0u; n < COLUMN_STEPS; n++) { // unrolled
                let column = b_matrix(my_column + n * MAT, k * MAT);
                for (var m = 0u; m < ROW_STEPS; m++) { // unrolled
                    sum[m * COLUMN_STEPS + n] = coopMultiplyAdd(rows[m], column, sum[m * COLUMN_STEPS + n]);
                }
            }
        }
        workgroupBarrier();
    }

    let strip = subgroup * MAT * C_STRIDE;
    for (var m = 0u; m < ROW_STEPS; m++) { // unrolled
        for (var n = 0u; n < COLUMN_STEPS; n++) { // unrolled
            coopStoreT(sum[m * COLUMN_STEPS + n], &wg_c[(strip + n * MAT) / CELL], C_STRIDE / CELL);
        }
        workgroupBarrier();
        for (var i = invocation; i < MAT * STRIP_QUADS; i += SUBGROUP) {
            let row = first_row + my_row + m * MAT + i / STRIP_QUADS;
            let quad = (first_column + my_column) / 4u + i % STRIP_QUADS;
            if (row < params.rows && quad < params.column_quads) {
                write_quad(row, quad, get_c(strip + i / STRIP_QUADS * C_STRIDE + 4u * (i % STRIP_QUADS)));
            }
        }
        workgroupBarrier();
    }
}
