// What the gradients of one query and output head need beside the tensors; 32 bytes.
//
// With P = exp2(score - lse) and dP = dout · v, dP being the same for both members of the pair:
//     dS₁ = P₁ · (dP - offset₁),  dS₂ = P₂ · (-gate · dP - offset₂),  dV gets (P₁ - gate · P₂) · dout.
//
// Where MEMBERS is 1 there is no second member: standard attention, for comparison with the fused form.
struct Terms {
    lse: vec2<f32>,     // of members 1 and 2, in log2 units; 0 for a row that sees no key, which has no P
    offset: vec2<f32>,  // c₁ - dlse₁ and -gate · c₂ - dlse₂, with cᵢ = dout · aᵢ
    gate: f32,          // sigmoid(λ)
    gate_slope: f32,    // its derivative by λ
    @size(8) largest_dout: f32,  // of the row, without sign: what matrix units scale by
}
