// K, then V in its place, through workgroup memory.
const KV_STAGED: bool = true;

fn key_matrix(first_row: u32, key: u32, step: u32) -> MatB {
    return coopLoad<MatB>(&wg_b[(key * MAT * KV_STRIDE + step * MAT) / CELL], KV_STRIDE / CELL);
}

fn value_matrix(first_row: u32, key: u32, step: u32) -> MatB {
    return coopLoadT<MatB>(&wg_b[(key * MAT * KV_STRIDE + step * MAT) / CELL], KV_STRIDE / CELL);
}
