// Sequences of one length, addressed by the batch stride.

fn sequence(batch: u32) -> Sequence {
    return Sequence(0u, params.q_len, 0u, params.kv_len, params.diagonal);
}

// The batch index that addresses q, k, v, …
fn batch_of(batch: u32) -> u32 {
    return batch;
}
