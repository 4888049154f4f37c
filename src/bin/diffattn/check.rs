//! `diffattn check`: every kernel against the reference.
use crate::args::CheckArgs;
use anyhow::Result;
use std::io::Write;
pub fn run(_args: &CheckArgs, _out: &mut impl Write) -> Result<()> {
    Ok(())
}
