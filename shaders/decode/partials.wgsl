// Where a split's state lies; shared by its writer and its reader.
const PARTIAL_STRIDE: u32 = 2u * VALUE_OCTETS + 1u;  // vec4 of one row

fn partial_row(b: u32, kv_head: u32, split: u32, row: u32) -> u32 {
    let rows = params.q_len * 2u * params.group;
    return (((b * params.kv_heads + kv_head) * params.splits + split) * rows + row) * PARTIAL_STRIDE;
}
