// Two pairs, each turned by its angle, of which cosine and sine are given.
fn turned(x: vec4<f32>, angle: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        x.x * angle.x - x.y * angle.y, x.x * angle.y + x.y * angle.x,
        x.z * angle.z - x.w * angle.w, x.z * angle.w + x.w * angle.z,
    );
}
