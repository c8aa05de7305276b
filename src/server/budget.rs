//! How many connections an address may open, one after the other: so many a second, with a burst, so
//! that a storm from one place costs its connections and not the server's time. Unlike the cap on
//! connections at once (`limits.per_address`) it looks at how fast they come; a network behind one
//! address that comes back all together is let in, if not all in the same instant.
//!
//! The memory is fixed, as for failed logins: a table of slots in groups, of which an address can use
//! one group, and what is nearest to being paid for in a full group is forgotten. It is made at the
//! first connection.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::OnceLock,
};

use parking_lot::Mutex;

use crate::{clock::Millis, registry::peer_network};

/// How much of its future an address may use up at once, in seconds.
const BURST: u64 = 4;
/// Slots that an address can use.
const WAYS: usize = 8;
/// Groups of slots: 16384 slots, 384 KiB.
const GROUPS: usize = 2048;

/// What the addresses have used of their budgets.
pub struct Budget {
    hasher: RandomState,
    /// What a connection costs, in microseconds of its address's time; 0: nothing.
    cost: u64,
    slots: OnceLock<Box<[Mutex<[Slot; WAYS]>]>>,
}

/// Of one address: the generic cell rate algorithm.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// The address's hash; 0: the slot is free.
    key: u64,
    /// When everything so far is paid for, in microseconds since the epoch.
    paid: u64,
    /// It was told already that it is over its budget.
    over: bool,
}

/// Whether a connection is within its address's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Within,
    /// It is not, the first one for a while: something to note.
    First,
    /// It is not, like the one before.
    Beyond,
}

impl Budget {
    /// So many connections a second; 0: any number.
    pub(crate) fn new(per_second: u32) -> Self {
        let cost = 1_000_000_u64.checked_div(u64::from(per_second)).map_or(0, |cost| cost.max(1));
        Self { hasher: RandomState::new(), cost, slots: OnceLock::new() }
    }

    /// Takes a connection from this address's budget (IPv6: that of its /64 network).
    pub fn take(&self, address: IpAddr, now: Millis) -> Verdict {
        if self.cost == 0 {
            return Verdict::Within;
        }
        let slots = self
            .slots
            .get_or_init(|| std::iter::repeat_with(Mutex::default).take(GROUPS).collect());
        // The hash is keyed, so that nobody can choose whom to share a slot with.
        let key = self.hasher.hash_one(peer_network(address.to_canonical())).max(1);
        let group = usize::try_from(key % GROUPS as u64).unwrap_or(0);
        let Some(group) = slots.get(group) else { return Verdict::Within };
        let mut group = group.lock();
        let found = match group.iter().position(|slot| slot.key == key) {
            Some(place) => group.get_mut(place),
            None => group.iter_mut().min_by_key(|slot| slot.paid),
        };
        let Some(slot) = found else { return Verdict::Within };
        if slot.key != key {
            *slot = Slot { key, ..Slot::default() };
        }
        let now = now.0.saturating_mul(1000);
        let most = now.saturating_add(BURST * 1_000_000);
        // The upper bound is for a clock that was put back.
        slot.paid = slot.paid.max(now).min(most);
        let paid = slot.paid.saturating_add(self.cost);
        if paid > most {
            let first = !std::mem::replace(&mut slot.over, true);
            return if first { Verdict::First } else { Verdict::Beyond };
        }
        // Worth a note again once the burst is as good as unused.
        slot.over &= paid > now.saturating_add(BURST * 500_000);
        slot.paid = paid;
        Verdict::Within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn at(millis: u64) -> Millis {
        Millis(1_700_000_000_000 + millis)
    }

    /// How many of so many come in at this time.
    fn let_in(budget: &Budget, address: &str, count: usize, now: Millis) -> usize {
        (0..count).filter(|_| budget.take(ip(address), now) == Verdict::Within).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_rules() {
        let budget = Budget::new(100);
        assert_eq!(let_in(&budget, "192.0.2.1", 1_000, at(0)), 400);
        assert_eq!(let_in(&budget, "192.0.2.1", 1_000, at(9)), 0);
        assert_eq!(let_in(&budget, "192.0.2.1", 1_000, at(10)), 1);
        assert_eq!(let_in(&budget, "192.0.2.1", 1_000, at(1_010)), 100);
        assert_eq!(let_in(&budget, "192.0.2.1", 1_000, at(3_600_000)), 400, "and no more ever");
    }

    #[test]
    fn refusals_cost_nothing() {
        let budget = Budget::new(1);
        assert_eq!(let_in(&budget, "192.0.2.1", 1_000_000, at(0)), 4);
        assert_eq!(let_in(&budget, "192.0.2.1", 9, at(1_000)), 1);
    }

    #[test]
    fn a_clock_that_is_put_back_locks_nobody_out() {
        let budget = Budget::new(1);
        assert_eq!(let_in(&budget, "192.0.2.1", 9, at(3_600_000)), 4);
        assert_eq!(let_in(&budget, "192.0.2.1", 9, at(0)), 0);
        assert_eq!(let_in(&budget, "192.0.2.1", 9, at(2_000)), 2);
    }

    #[test]
    fn each_network_has_its_own() {
        let budget = Budget::new(1);
        assert_eq!(let_in(&budget, "192.0.2.1", 9, at(0)), 4);
        assert_eq!(let_in(&budget, "192.0.2.2", 9, at(0)), 4);
        assert_eq!(let_in(&budget, "::ffff:192.0.2.2", 9, at(0)), 0, "the same in another dress");
        assert_eq!(let_in(&budget, "2001:db8::1", 9, at(0)), 4);
        assert_eq!(let_in(&budget, "2001:db8::2", 9, at(0)), 0, "the same /64");
        assert_eq!(let_in(&budget, "2001:db8:0:1::1", 9, at(0)), 4);
    }

    #[test]
    fn a_storm_is_noted_once() {
        let budget = Budget::new(10);
        let home = ip("192.0.2.1");
        let noted =
            |now, count| (0..count).filter(|_| budget.take(home, now) == Verdict::First).count();
        assert_eq!(noted(at(0), 1_000), 1);
        // It goes on, and gets its share.
        assert_eq!((1..100).map(|tenth| noted(at(tenth * 100), 50)).sum::<usize>(), 0);
        assert_eq!(noted(at(60_000), 1_000), 1, "another one");
    }

    #[test]
    fn zero_is_no_limit_and_very_many_are_counted() {
        assert_eq!(let_in(&Budget::new(0), "192.0.2.1", 10_000, at(0)), 10_000);
        assert_eq!(let_in(&Budget::new(u32::MAX), "192.0.2.1", 10_000, at(0)), 10_000);
    }

    #[test]
    fn many_addresses_push_out_the_one_that_owes_least() {
        let budget = Budget::new(1);
        for last in 0..4_u32 {
            assert_eq!(budget.take(ip("192.0.2.1"), at(u64::from(last))), Verdict::Within);
        }
        // More networks than there are slots, with one connection each.
        for number in 0..200_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            assert_eq!(budget.take(address, at(5)), Verdict::Within);
        }
        assert_eq!(let_in(&budget, "192.0.2.1", 1, at(6)), 0, "the flooder is remembered");
        let slots = budget.slots.get().expect("is made");
        assert_eq!(slots.len() * WAYS, 16_384, "and the memory is what it was");
    }
}
