// Loads are not counted.
fn count_k(index: u32) {}
fn count_v(index: u32) {}
