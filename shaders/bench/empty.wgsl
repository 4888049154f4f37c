// Does nothing, in one invocation: what a dispatch costs by itself. Workgroup memory, barriers, numerics: none.

@compute @workgroup_size(1)
fn main() {}
