// V1's λ, and the two exponentials that it comes from.
struct Lambda {
    value: f32,
    e1: f32,
    e2: f32,
}
