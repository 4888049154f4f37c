// LSE is not wanted.
fn write_lse(batch: u32, head: u32, token: u32, row_max: f32, row_sum: f32) {}
