//! Every item that `examples/claims` prints holds.

#[path = "../../examples/claims/items/mod.rs"]
mod items;

#[test]
fn every_claim_holds() {
    let claims = items::all();
    assert!(claims.len() > 40);
    for items::Claim { item, what, measured, expected, source, holds } in claims {
        assert!(holds, "{item} {what}: {measured}, expected {expected} ({source})");
    }
}
