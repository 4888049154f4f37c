// K and V straight from global memory: every subgroup reads them, and the caches share them. `first_row` is the unit of
// the first key. The last tile begins early, so that it ends with the keys: those seen before are masked. So kv_len is at
// least KEYS.
const KV_STAGED: bool = false;

fn key_matrix(first_row: u32, key: u32, step: u32) -> MatB {
    return coopLoad<MatB>(&k[2u * (first_row + key * MAT * params.k.seq) + step * MAT / 4u], 2u * params.k.seq);
}

fn value_matrix(first_row: u32, key: u32, step: u32) -> MatB {
    return coopLoadT<MatB>(&v[2u * (first_row + key * MAT * params.v.seq) + step * MAT / 4u], 2u * params.v.seq);
}
