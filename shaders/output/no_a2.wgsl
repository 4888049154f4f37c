// The subtracted member a2 is not wanted.
fn write_a2(row: u32, quad: u32, x: vec4<f32>) {}
