//! `diffattn info`: what this machine can do.
use crate::args::InfoArgs;
use anyhow::Result;
use std::io::Write;
pub fn run(_args: &InfoArgs, _out: &mut impl Write) -> Result<()> {
    Ok(())
}
