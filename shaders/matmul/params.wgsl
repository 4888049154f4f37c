// The uniform block of the matrix product. Mirrored by src/params.rs; a test compares both by reflection.

struct Params {
    rows: u32,          // of C
    columns: u32,
    column_quads: u32,  // the last one perhaps with columns that do not exist
    depth: u32,
    // Where the matrices lie, in units of four elements: the first row, and from one row to the next.
    a_base: u32,
    a_stride: u32,
    b_base: u32,
    b_stride: u32,
    c_base: u32,
    c_stride: u32,
    column_tiles: u32,
    tiles: u32,         // workgroups that have work
    grid_width: u32,    // workgroups along x; the grid is folded where one dimension is too short
    add: u32,           // 1 where the product is added to what is there
    head_quads: u32,    // quads of one head, for the rotary embedding
    head_stride: u32,   // quads from one head to the next
}
