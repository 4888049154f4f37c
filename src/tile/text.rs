//! Tiles as text: the tile's part of a label, which `--tile` and the tuner's file take back. `r64k16t64n4h2qv` is 64 rows,
//! 16 keys, 64 threads, 4 keys for each lane, 2 heads, Q staged, V apart; `shaders/` and the fields tell the meaning.

use std::fmt;
use std::str::FromStr;

use super::{AnyTile, Tile};
use crate::error::{Error, Result};

/// The fields of a tile's text: letters, each with the number after it if there is one.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    text: &'a str,
    rule: &'static str,
    fields: Vec<(char, Option<u32>)>,
}

impl<'a> Fields<'a> {
    /// Reads `text`, whose form is told by `rule` when it is wrong.
    pub(crate) fn read(text: &'a str, rule: &'static str) -> Result<Self> {
        let mut fields: Vec<(char, Option<u32>)> = Vec::new();
        for (index, letter) in text.char_indices().filter(|(_, c)| !c.is_ascii_digit()) {
            let digits = &text[index + letter.len_utf8()..];
            let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())];
            let number = if digits.is_empty() { Ok(None) } else { digits.parse().map(Some) };
            match number {
                Ok(number) if letter.is_ascii_lowercase() && fields.iter().all(|(other, _)| *other != letter) => {
                    fields.push((letter, number));
                }
                _ => return Err(Error::invalid("tile", rule, text)),
            }
        }
        let fields = Fields { text, rule, fields };
        if text.starts_with(|c: char| c.is_ascii_digit()) { Err(fields.wrong()) } else { Ok(fields) }
    }

    pub(crate) fn wrong(&self) -> Error {
        Error::invalid("tile", self.rule, self.text)
    }

    /// Takes a letter's number out; `None` where the letter is not there.
    pub(crate) fn number(&mut self, letter: char) -> Result<Option<u32>> {
        let Some(place) = self.fields.iter().position(|(found, _)| *found == letter) else { return Ok(None) };
        self.fields.remove(place).1.map(Some).ok_or_else(|| self.wrong())
    }

    /// Takes a number out that must be there and above 0.
    pub(crate) fn count(&mut self, letter: char) -> Result<u32> {
        self.number(letter)?.filter(|&number| number > 0).ok_or_else(|| self.wrong())
    }

    /// Takes a letter without a number out: whether it was there.
    pub(crate) fn flag(&mut self, letter: char) -> Result<bool> {
        let Some(place) = self.fields.iter().position(|(found, _)| *found == letter) else { return Ok(false) };
        if self.fields.remove(place).1.is_none() { Ok(true) } else { Err(self.wrong()) }
    }

    /// `a / b`, which must leave no rest.
    pub(crate) fn share(&self, a: u32, b: u32) -> Result<u32> {
        if b > 0 && a >= b && a.is_multiple_of(b) { Ok(a / b) } else { Err(self.wrong()) }
    }

    /// The tile, when all fields were taken and it prints as what was read.
    pub(crate) fn done<T: fmt::Display>(self, tile: T) -> Result<T> {
        if self.fields.is_empty() && tile.to_string() == self.text { Ok(tile) } else { Err(self.wrong()) }
    }
}

/// Rows, keys, threads, keys for each lane; heads where there are several; `q` and `v` where Q is staged and V apart.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}k{}t{}n{}", self.rows(), self.keys(), self.threads, self.keys_per_lane)?;
        if self.heads_per_tile > 1 {
            write!(f, "h{}", self.heads_per_tile)?;
        }
        f.write_str(if self.stage_q { "q" } else { "" })?;
        f.write_str(if self.separate_v { "v" } else { "" })
    }
}

impl FromStr for Tile {
    type Err = Error;

    /// Reads what [`Tile`] prints.
    fn from_str(text: &str) -> Result<Self> {
        let rule = "as in r64k16t64n4 or r64k16t64n4h2qv: rows, keys, threads and keys for each lane, heads, then q \
                    (Q staged) and v (V apart)";
        let mut fields = Fields::read(text, rule)?;
        let [rows, keys, threads, keys_per_lane] =
            [fields.count('r')?, fields.count('k')?, fields.count('t')?, fields.count('n')?];
        let key_lanes = fields.share(keys, keys_per_lane)?;
        let row_lanes = fields.share(threads, key_lanes)?;
        let row_quads = fields.share(rows, row_lanes.checked_mul(4).ok_or_else(|| fields.wrong())?)?;
        let heads_per_tile = fields.number('h')?.unwrap_or(1);
        let (stage_q, separate_v) = (fields.flag('q')?, fields.flag('v')?);
        fields.done(Tile { threads, row_quads, key_lanes, keys_per_lane, heads_per_tile, stage_q, separate_v })
    }
}

impl fmt::Display for AnyTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyTile::Tiled(tile) => tile.fmt(f),
            AnyTile::Matrix(tile) => tile.fmt(f),
        }
    }
}

impl FromStr for AnyTile {
    type Err = Error;

    /// Reads what [`Tile`] or [`crate::matrix::MatrixTile`] prints; the latter's has an `m`.
    fn from_str(text: &str) -> Result<Self> {
        if text.contains('m') { text.parse().map(AnyTile::Matrix) } else { text.parse().map(AnyTile::Tiled) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::candidates;

    #[test]
    fn every_tile_is_read_back_from_its_text() {
        for path in [crate::Path::Portable, crate::Path::Subgroup] {
            for tile in candidates(4, path, 32) {
                assert_eq!(tile.to_string().parse::<AnyTile>(), Ok(AnyTile::Tiled(tile)), "{tile}");
            }
        }
    }

    #[test]
    fn what_is_no_tile_is_refused_with_the_form() {
        for text in [
            "",
            "64",
            "r64",
            "r64k16t64n4n4",
            "r64k16t64n5",
            "r60k16t64n4",
            "r64k16t64n4x",
            "r64k16t64n4h1",
            "r64k16t64n4q2",
            "r0k16t64n4",
            "r64k16t64n99999999999",
            "k16r64t64n4",
            "r64k16t64n4é",
            "R64k16t64n4",
            "m",
            "r64k16m16x2t128z",
            "r4294967295k4294967295t4294967295n1",
        ] {
            let error = text.parse::<AnyTile>().unwrap_err().to_string();
            assert!(error.starts_with("`tile` is ") && error.contains("as in r"), "{text}: {error}");
        }
    }
}
