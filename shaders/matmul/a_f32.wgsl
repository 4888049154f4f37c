// A is f32, whatever the storage type: the gradient by λ.
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;

fn load_a(i: u32) -> vec4<f32> {
    return a[i];
}
