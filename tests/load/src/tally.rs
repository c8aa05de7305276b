//! Which of a sender's messages came, how often, and in which order (RFC 6120, section 10.1).

use std::{collections::BTreeSet, ops::AddAssign};

/// Missing numbers kept for one sender at most; beyond it a late message counts as doubled.
const REMEMBERED: usize = 100_000;

/// What went wrong between senders and receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// Never came.
    pub lost: u64,
    /// Came more than once.
    pub doubled: u64,
    /// Came after a later one.
    pub reordered: u64,
    /// Came with another's address, or to another's session.
    pub strayed: u64,
}

impl AddAssign for Wrongs {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.strayed += other.strayed;
    }
}

/// The book on one sender, kept by its receiver.
#[derive(Debug, Default)]
pub struct Tally {
    next: u64,
    missing: BTreeSet<u64>,
    wrongs: Wrongs,
    received: u64,
}

impl Tally {
    /// Counts number `sequence`; true when it came for the first time.
    pub fn count(&mut self, sequence: u64) -> bool {
        if sequence >= self.next {
            let space = (REMEMBERED - self.missing.len()) as u64;
            self.missing.extend((self.next..sequence).take(space as usize));
            self.next = sequence + 1;
        } else if self.missing.remove(&sequence) {
            self.wrongs.reordered += 1;
        } else {
            self.wrongs.doubled += 1;
            return false;
        }
        self.received += 1;
        true
    }

    /// Counts a message that is not this receiver's, or not from its sender.
    pub fn stray(&mut self) {
        self.wrongs.strayed += 1;
    }

    /// The end of the book, when the sender has sent numbers `0..sent`.
    pub fn close(&self, sent: u64) -> Wrongs {
        Wrongs { lost: sent.saturating_sub(self.received), ..self.wrongs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrongs(came: &[u64], sent: u64) -> Wrongs {
        let mut tally = Tally::default();
        for sequence in came {
            tally.count(*sequence);
        }
        tally.close(sent)
    }

    #[test]
    fn each_wrong_is_counted_as_itself() {
        assert_eq!(wrongs(&[0, 1, 2], 3), Wrongs::default());
        assert_eq!(wrongs(&[0, 2], 3), Wrongs { lost: 1, ..Wrongs::default() });
        assert_eq!(wrongs(&[0, 1], 3), Wrongs { lost: 1, ..Wrongs::default() });
        assert_eq!(wrongs(&[], 2), Wrongs { lost: 2, ..Wrongs::default() });
        assert_eq!(wrongs(&[0, 2, 1], 3), Wrongs { reordered: 1, ..Wrongs::default() });
        assert_eq!(wrongs(&[0, 1, 1, 2], 3), Wrongs { doubled: 1, ..Wrongs::default() });
        let mixed = Wrongs { lost: 1, doubled: 1, reordered: 1, strayed: 0 };
        assert_eq!(wrongs(&[0, 3, 1, 3], 4), mixed);
    }

    #[test]
    fn a_wild_number_costs_bounded_memory() {
        let mut tally = Tally::default();
        tally.count(u64::MAX - 1);
        tally.count(3);
        assert!(tally.missing.len() <= REMEMBERED);
    }
}
