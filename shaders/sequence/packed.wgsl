// Sequences of different lengths, one after another along the token axis.
@group(0) @binding(8) var<storage, read> sequences: array<Sequence>;

fn sequence(batch: u32) -> Sequence {
    return sequences[batch];
}

// The tensors have no batch axis.
fn batch_of(batch: u32) -> u32 {
    return 0u;
}
