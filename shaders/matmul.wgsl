// Matrix product C[rows × columns] = A[rows × depth] · B[depth × columns]: the three products of a linear layer.
//
// A workgroup owns a tile of ROWS × 4·COLUMN_QUADS elements of C. Invocations form a grid of ROW_LANES × COLUMN_LANES;
// each owns ROWS_PER_LANE rows (ROW_LANES apart) of QUADS_PER_LANE column quads (COLUMN_LANES apart), in registers, for
// which loops marked `unrolled` are written out by src/shader/unroll.rs where drivers would not:
//
//     for four steps of depth: ROWS_PER_LANE + 4 · QUADS_PER_LANE vector loads, 16 · ROWS_PER_LANE · QUADS_PER_LANE
//     multiply-adds
//
// A comes by way of workgroup memory, DEPTH columns at a time; all lanes of a row lane read the same address. So does B,
// unless each of its elements is used by one lane only (ROW_LANES is 1, STAGE_B false): then it comes from its buffer.
// Which way A and B lie in memory is in a_*.wgsl and b_*.wgsl, what becomes of C in write_*.wgsl.
//
// Workgroup memory: 16 · (ROWS · A_STRIDE + B_SLOTS) bytes; A_STRIDE is odd, so that neighbouring rows fall into
// different banks. Barriers: two for each step of DEPTH.
// Numerics: f32 sums in the order of depth, whatever the storage type. Beyond `depth` A is read as zero; beyond the last
// row or column whatever lies there is read again, and not written.
// Source: register-blocked products as in Volkov & Demmel (2008).

@group(0) @binding(0) var<uniform> params: Params;

const ROW_LANES: u32 = THREADS / COLUMN_LANES;
const ROWS: u32 = ROWS_PER_LANE * ROW_LANES;
const COLUMN_QUADS: u32 = QUADS_PER_LANE * COLUMN_LANES;
const DEPTH_QUADS: u32 = DEPTH / 4u;

var<workgroup> wg_a: array<vec4<f32>, ROWS * A_STRIDE>;  // [row][quad of depth]
var<workgroup> wg_b: array<vec4<f32>, B_SLOTS>;          // [depth][column quad], where STAGE_B

// Blocks of 4 × 4; neighbouring lanes take what is neighbours in memory.
fn stage_a(lane: u32, first_row: u32, first_depth: u32) {
    for (var i = lane; i < ROWS / 4u * DEPTH_QUADS; i += THREADS) {
        let row_quad = select(i % (ROWS / 4u), i / DEPTH_QUADS, A_ALONG_DEPTH);
        let depth_quad = select(i / (ROWS / 4u), i % DEPTH_QUADS, A_ALONG_DEPTH);
        let block = a_block(first_row / 4u + row_quad, first_depth / 4u + depth_quad);
        for (var j = 0u; j < 4u; j++) {
            wg_a[(4u * row_quad + j) * A_STRIDE + depth_quad] = block[j];
        }
    }
}

fn stage_b(lane: u32, first_quad: u32, first_depth: u32) {
    for (var i = lane; i < COLUMN_QUADS * DEPTH_QUADS; i += THREADS) {
        let quad = select(i % COLUMN_QUADS, i / DEPTH_QUADS, B_ALONG_DEPTH);
        let depth_quad = select(i / COLUMN_QUADS, i % DEPTH_QUADS, B_ALONG_DEPTH);
        let block = b_block(first_quad + quad, first_depth / 4u + depth_quad);
        for (var j = 0u; j < 4u; j++) {
            wg_b[(4u * depth_quad + j) * COLUMN_QUADS + quad] = block[j];
        }
    }
}

// Which of four steps of depth there are.
fn existing(depth_quad: u32) -> vec4<bool> {
    return vec4<u32>(4u * depth_quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.depth);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = group.x + group.y * params.grid_width;
    if (tile >= params.tiles) {
        return;
    }
    let first_row = tile / params.column_tiles * ROWS;
    let first_quad = tile % params.column_tiles * COLUMN_QUADS;
    // Said to be 0 where it is, so that compilers know that all lanes read the same elements of A.
    let row_lane = select(lane / COLUMN_LANES, 0u, ROW_LANES == 1u);
    let quad = lane % COLUMN_LANES;

    var sum: array<vec4<f32>, ROWS_PER_LANE * QUADS_PER_LANE>;
    for (var depth = 0u; depth < params.depth; depth += DEPTH) {
        stage_a(lane, first_row, depth);
        if (STAGE_B) {
            stage_b(lane, first_quad, depth);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH_QUADS; k++) {
            var b = array<vec4<f32>, 4u * QUADS_PER_LANE>();
            for (var n = 0u; n < QUADS_PER_LANE; n++) { // unrolled
                if (STAGE_B) {
                    for (var i = 0u; i < 4u; i++) {
                        b[4u * n + i] = wg_b[(4u * k + i) * COLUMN_QUADS + n * COLUMN_LANES + quad];
                    }
                } else {
                    let block = b_block(first_quad + n * COLUMN_LANES + quad, depth / 4u + k);
                    for (var i = 0u; i < 4u; i++) {
                        b[4u * n + i] = block[i];
                    }
                }
            }
            for (var r = 0u; r < ROWS_PER_LANE; r++) { // unrolled
                let a = wg_a[(r * ROW_LANES + row_lane) * A_STRIDE + k];
                for (var n = 0u; n < QUADS_PER_LANE; n++) { // unrolled
                    var x = fma(vec4<f32>(a.x), b[4u * n], sum[r * QUADS_PER_LANE + n]);
                    x = fma(vec4<f32>(a.y), b[4u * n + 1u], x);
                    x = fma(vec4<f32>(a.z), b[4u * n + 2u], x);
                    sum[r * QUADS_PER_LANE + n] = fma(vec4<f32>(a.w), b[4u * n + 3u], x);
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS_PER_LANE; r++) { // unrolled
        let row = first_row + r * ROW_LANES + row_lane;
        for (var n = 0u; n < QUADS_PER_LANE; n++) { // unrolled
            let column_quad = first_quad + n * COLUMN_LANES + quad;
            if (row < params.rows && column_quad < params.column_quads) {
                write_quad(row, column_quad, sum[r * QUADS_PER_LANE + n]);
            }
        }
    }
}
