//! Which blocks of the cache belong to which sequence: lengths, block tables, free pages, references. Pure.
//!
//! A contiguous cache is one block of `capacity` tokens for each sequence. A paged one hands out pages; sequences that
//! were forked share pages, and whoever writes into a shared one takes a copy first.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// A sequence of a [`crate::KvCache`]. Not valid any more once the sequence was removed, even if its place is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceId {
    pub(crate) slot: u32,
    generation: u32,
}

/// A page that must be copied to another before anything is appended to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub from: u32,
    pub to: u32,
}

/// Entries of a sequence's block table, from `first` on, that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableChange {
    pub slot: u32,
    pub first: u32,
    pub pages: Vec<u32>,
}

/// What appending changes on the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub copies: Vec<PageCopy>,
    pub tables: Vec<TableChange>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    live: bool,
    generation: u32,
    len: u32,
    pages: Vec<u32>,
}

/// The bookkeeping of a cache.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    capacity: u32,
    /// Tokens of a page; `None` for a contiguous cache.
    page_size: Option<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Sequences that hold each page.
    references: Vec<u32>,
}

impl Blocks {
    /// `pages`: tokens of a page and number of pages.
    pub(crate) fn new(sequences: u32, capacity: u32, pages: Option<(u32, u32)>) -> Self {
        let count = pages.map_or(0, |(_, count)| count);
        Blocks {
            capacity,
            page_size: pages.map(|(size, _)| size),
            slots: vec![Slot::default(); sequences as usize],
            // The last is handed out first.
            free: (0..count).rev().collect(),
            references: vec![0; count as usize],
        }
    }

    pub(crate) fn create(&mut self) -> Result<SequenceId> {
        let available = self.slots.len() as u64;
        let free = self.slots.iter_mut().zip(0..).find(|(slot, _)| !slot.live);
        let (slot, index) = free.ok_or(Error::CacheFull { resource: "sequences", needed: available + 1, available })?;
        slot.live = true;
        Ok(SequenceId { slot: index, generation: slot.generation })
    }

    fn slot(&self, id: SequenceId) -> Result<&Slot> {
        let slot = self.slots.get(id.slot as usize);
        slot.filter(|slot| slot.live && slot.generation == id.generation)
            .ok_or(Error::UnknownSequence { slot: id.slot })
    }

    /// Tokens of a sequence.
    pub(crate) fn len(&self, id: SequenceId) -> Result<u32> {
        Ok(self.slot(id)?.len)
    }

    /// The pages of a sequence, in the order of its tokens; empty for a contiguous cache.
    #[cfg(test)]
    fn pages(&self, id: SequenceId) -> Result<&[u32]> {
        Ok(&self.slot(id)?.pages)
    }

    /// Pages that no sequence holds.
    pub(crate) fn free_pages(&self) -> u32 {
        self.free.len() as u32
    }

    /// Makes room for so many more tokens of each sequence: for all of them, or, with an error, for none. Takes nothing
    /// from the heap unless a page is taken or copied.
    pub(crate) fn append(&mut self, items: &[(SequenceId, u32)]) -> Result<Changes> {
        self.check_append(items)?;
        let mut changes = Changes::default();
        for &(id, tokens) in items {
            let slot = &mut self.slots[id.slot as usize];
            let len = slot.len;
            slot.len += tokens;
            let Some(page_size) = self.page_size.filter(|_| tokens > 0) else { continue };
            let first = len / page_size;
            let shared = slot.pages.get(first as usize).copied().filter(|page| self.references[*page as usize] > 1);
            if let Some(from) = shared {
                self.references[from as usize] -= 1;
                slot.pages.pop();
            }
            let kept = slot.pages.len();
            while slot.pages.len() < slot.len.div_ceil(page_size) as usize {
                let Some(page) = self.free.pop() else { unreachable!("check_append counted the free pages") };
                self.references[page as usize] = 1;
                slot.pages.push(page);
            }
            changes.copies.extend(shared.map(|from| PageCopy { from, to: slot.pages[first as usize] }));
            if slot.pages.len() > kept {
                let pages = slot.pages[first as usize..].to_vec();
                changes.tables.push(TableChange { slot: id.slot, first, pages });
            }
        }
        Ok(changes)
    }

    fn check_append(&self, items: &[(SequenceId, u32)]) -> Result<()> {
        let mut needed = 0;
        // Of two sequences that share a page and both write, the last one keeps it.
        let mut left: HashMap<u32, u32> = HashMap::new();
        for (index, &(id, tokens)) in items.iter().enumerate() {
            let slot = self.slot(id)?;
            if items[..index].iter().any(|(other, _)| *other == id) {
                return Err(Error::invalid(
                    "sequences",
                    "different from one another",
                    format!("slot {} twice", id.slot),
                ));
            }
            let len = u64::from(slot.len) + u64::from(tokens);
            if len > u64::from(self.capacity) {
                let (resource, available) = ("tokens of one sequence", self.capacity.into());
                return Err(Error::CacheFull { resource, needed: len, available });
            }
            let Some(page_size) = self.page_size.filter(|_| tokens > 0) else { continue };
            needed += len.div_ceil(page_size.into()) - slot.pages.len() as u64;
            let page = slot.pages.get((slot.len / page_size) as usize);
            if let Some(page) = page.filter(|page| self.references[**page as usize] > 1) {
                let references = left.entry(*page).or_insert(self.references[*page as usize]);
                if *references > 1 {
                    *references -= 1;
                    needed += 1;
                }
            }
        }
        let available = self.free.len() as u64;
        if needed > available {
            return Err(Error::CacheFull { resource: "pages", needed, available });
        }
        Ok(())
    }

    /// A second sequence with the same tokens. Pages are shared; what a contiguous cache holds must be copied.
    pub(crate) fn fork(&mut self, id: SequenceId) -> Result<(SequenceId, Option<TableChange>)> {
        let Slot { len, pages, .. } = self.slot(id)?.clone();
        let new = self.create()?;
        for page in &pages {
            self.references[*page as usize] += 1;
        }
        let slot = &mut self.slots[new.slot as usize];
        (slot.len, slot.pages) = (len, pages.clone());
        Ok((new, (!pages.is_empty()).then_some(TableChange { slot: new.slot, first: 0, pages })))
    }

    /// Keeps the first `len` tokens.
    pub(crate) fn truncate(&mut self, id: SequenceId, len: u32) -> Result<()> {
        let have = self.len(id)?;
        if len > have {
            return Err(Error::invalid("len", format!("at most the sequence's {have} tokens"), len));
        }
        let slot = &mut self.slots[id.slot as usize];
        slot.len = len;
        let keep = self.page_size.map_or(0, |page_size| len.div_ceil(page_size) as usize);
        for page in slot.pages.drain(keep..) {
            self.references[page as usize] -= 1;
            if self.references[page as usize] == 0 {
                self.free.push(page);
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: SequenceId) -> Result<()> {
        self.truncate(id, 0)?;
        let slot = &mut self.slots[id.slot as usize];
        slot.live = false;
        slot.generation = slot.generation.wrapping_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cache's contents as the device would hold them, next to what they should be.
    struct Model {
        blocks: Blocks,
        page_size: Option<u32>,
        /// Token values by block and place.
        memory: HashMap<(u32, u32), u32>,
        expected: Vec<(SequenceId, Vec<u32>)>,
        next: u32,
    }

    impl Model {
        fn place(&self, id: SequenceId, token: u32) -> (u32, u32) {
            match self.page_size {
                None => (id.slot, token),
                Some(size) => (self.blocks.pages(id).unwrap()[(token / size) as usize], token % size),
            }
        }

        fn check(&self) {
            let mut references = vec![0; self.blocks.references.len()];
            for (id, tokens) in &self.expected {
                assert_eq!(self.blocks.len(*id), Ok(tokens.len() as u32));
                for (token, expected) in (0..).zip(tokens) {
                    assert_eq!(self.memory.get(&self.place(*id, token)), Some(expected), "{id:?} token {token}");
                }
                self.blocks.pages(*id).unwrap().iter().for_each(|page| references[*page as usize] += 1);
            }
            assert_eq!(references, self.blocks.references);
            let mut free = self.blocks.free.clone();
            free.sort_unstable();
            let unused = (0..).zip(&references).filter(|(_, count)| **count == 0).map(|(page, _)| page);
            assert!(free.into_iter().eq(unused), "free pages are those that nobody holds");
        }

        fn append(&mut self, items: &[(usize, u32)]) -> Result<()> {
            let ids: Vec<_> = items.iter().map(|(index, tokens)| (self.expected[*index].0, *tokens)).collect();
            let changes = self.blocks.append(&ids)?;
            for PageCopy { from, to } in changes.copies {
                for place in 0..self.page_size.unwrap() {
                    if let Some(value) = self.memory.get(&(from, place)).copied() {
                        self.memory.insert((to, place), value);
                    }
                }
            }
            for &(index, tokens) in items {
                for _ in 0..tokens {
                    let id = self.expected[index].0;
                    let place = self.place(id, self.expected[index].1.len() as u32);
                    self.memory.insert(place, self.next);
                    self.expected[index].1.push(self.next);
                    self.next += 1;
                }
            }
            Ok(())
        }

        fn step(&mut self, rng: &mut fastrand::Rng) {
            let some = (!self.expected.is_empty()).then(|| rng.usize(..self.expected.len()));
            match (rng.u32(0..10), some) {
                (0, _) | (_, None) => {
                    if let Ok(id) = self.blocks.create() {
                        self.expected.push((id, vec![]));
                    }
                }
                (1, Some(index)) => {
                    let (id, tokens) = self.expected[index].clone();
                    if let Ok((new, _)) = self.blocks.fork(id) {
                        if self.page_size.is_none() {
                            (0..).zip(&tokens).for_each(|(token, value)| {
                                self.memory.insert((new.slot, token), *value);
                            });
                        }
                        self.expected.push((new, tokens));
                    }
                }
                (2, Some(index)) => {
                    let len = rng.usize(..=self.expected[index].1.len());
                    self.blocks.truncate(self.expected[index].0, len as u32).unwrap();
                    self.expected[index].1.truncate(len);
                }
                (3, Some(index)) => {
                    let (id, _) = self.expected.swap_remove(index);
                    self.blocks.remove(id).unwrap();
                    assert_eq!(self.blocks.len(id), Err(Error::UnknownSequence { slot: id.slot }));
                }
                (_, Some(_)) => {
                    let most = if rng.u32(0..4) == 0 { 40 } else { 2 };
                    let mut items: Vec<_> = (0..self.expected.len()).collect();
                    items.retain(|_| rng.bool());
                    let items: Vec<_> = items.into_iter().map(|index| (index, rng.u32(0..=most))).collect();
                    let before = format!("{:?}", self.blocks);
                    if self.append(&items).is_err() {
                        assert_eq!(before, format!("{:?}", self.blocks), "a refused append changes nothing");
                    }
                }
            }
        }
    }

    #[test]
    fn ten_thousand_operations_lose_nothing() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let rng = &mut fastrand::Rng::with_seed(seed);
        for pages in [None, Some((16, 24)), Some((48, 9))] {
            let blocks = Blocks::new(6, 130, pages);
            let page_size = pages.map(|(size, _)| size);
            let mut model = Model { blocks, page_size, memory: HashMap::new(), expected: vec![], next: 0 };
            for _ in 0..10_000 {
                model.step(rng);
                model.check();
            }
        }
    }

    #[test]
    fn a_cache_that_is_full_says_of_what() {
        let mut blocks = Blocks::new(2, 64, Some((16, 3)));
        let (a, b) = (blocks.create().unwrap(), blocks.create().unwrap());
        let full = |resource, needed, available| Err(Error::CacheFull { resource, needed, available });
        assert_eq!(blocks.create().map(|_| ()), full("sequences", 3, 2));
        assert_eq!(blocks.append(&[(a, 65)]).map(|_| ()), full("tokens of one sequence", 65, 64));
        assert_eq!(blocks.append(&[(a, 20), (b, 17)]).map(|_| ()), full("pages", 4, 3));
        assert_eq!((blocks.len(a), blocks.len(b)), (Ok(0), Ok(0)));
        assert!(blocks.append(&[(a, 1), (a, 1)]).is_err());
        blocks.remove(b).unwrap();
        assert_eq!(blocks.append(&[(a, 1), (b, 1)]), Err(Error::UnknownSequence { slot: 1 }));
        assert!(blocks.truncate(a, 1).is_err());
    }
}
