//! Failed logins are counted, so that passwords cannot be tried fast: for each pair of account and
//! address, and for each address over all accounts. Whoever has failed too often is refused for a
//! while before the password is looked at. Other addresses of the account are not: whoever tries
//! passwords cannot lock the owner out, which is why there is no limit for an account alone.
//!
//! The memory is fixed: a table of slots in groups, of which a key can use one group, and the oldest
//! of a full group is forgotten. It is made at the first failure. Accounts need not exist: a refusal
//! tells nobody whether they do. Nothing of this is durable, and sessions that are there stay.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::OnceLock,
};

use parking_lot::Mutex;
use wire::Jid;

use crate::{clock::Millis, config::Auth, registry::peer_network};

/// Slots that a key can use.
const WAYS: usize = 8;
/// Groups of slots for pairs (32768 slots, 1 MiB), and for addresses.
const PAIRS: usize = 4096;
const ADDRESSES: usize = 1024;

/// Who has failed how often.
pub(crate) struct Throttle {
    hasher: RandomState,
    pairs: Table,
    addresses: Table,
}

/// The failures of one key.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// The key's hash; 0: the slot is free.
    key: u64,
    /// The first failure that counts.
    first: Millis,
    /// The last one.
    last: Millis,
    count: u32,
}

/// Counts for keys of one kind, of which so many may fail in one period.
struct Table {
    groups: usize,
    /// 0: any number.
    failures: u32,
    /// Seconds; 0: no limit.
    period: u64,
    slots: OnceLock<Box<[Mutex<[Slot; WAYS]>]>>,
}

impl Throttle {
    /// By the configuration's rules.
    pub(crate) fn new(auth: &Auth) -> Self {
        let period = auth.failure_period.get().unwrap_or(0);
        Self {
            hasher: RandomState::new(),
            pairs: Table::new(PAIRS, auth.pair_failures, period),
            addresses: Table::new(ADDRESSES, auth.address_failures, period),
        }
    }

    /// Whether this address may not try to log in to this account now.
    pub(crate) fn refuses(&self, user: &Jid, address: IpAddr, now: Millis) -> bool {
        self.pairs.refuses(self.pair(user, address), now)
            || self.addresses.refuses(self.address(address), now)
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, user: &Jid, address: IpAddr, now: Millis) {
        self.pairs.failed(self.pair(user, address), now);
        self.addresses.failed(self.address(address), now);
    }

    /// Forgets the failures of a pair: it has logged in. Those of the address stay, or whoever has an
    /// account could try the passwords of all others.
    pub(crate) fn succeeded(&self, user: &Jid, address: IpAddr) {
        self.pairs.forget(self.pair(user, address));
    }

    fn pair(&self, user: &Jid, address: IpAddr) -> u64 {
        self.key((user.bare_str(), peer_network(address.to_canonical())))
    }

    fn address(&self, address: IpAddr) -> u64 {
        self.key(peer_network(address.to_canonical()))
    }

    /// The hash is keyed, so that nobody can choose whom to share a slot with.
    fn key(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of).max(1)
    }
}

impl Table {
    fn new(groups: usize, failures: u32, period: u64) -> Self {
        Self { groups, failures, period, slots: OnceLock::new() }
    }

    fn group<'s>(
        &self,
        slots: &'s [Mutex<[Slot; WAYS]>],
        key: u64,
    ) -> Option<&'s Mutex<[Slot; WAYS]>> {
        slots.get(usize::try_from(key % self.groups as u64).unwrap_or(0))
    }

    fn is_on(&self) -> bool {
        self.failures > 0 && self.period > 0
    }

    /// At the very instant that the period has passed, it may try again.
    fn blocked(&self, slot: &Slot, now: Millis) -> bool {
        slot.count >= self.failures && now < slot.last.plus_seconds(self.period)
    }

    fn refuses(&self, key: u64, now: Millis) -> bool {
        let Some(slots) = self.slots.get().filter(|_| self.is_on()) else { return false };
        let Some(group) = self.group(slots, key) else { return false };
        group.lock().iter().any(|slot| slot.key == key && self.blocked(slot, now))
    }

    fn failed(&self, key: u64, now: Millis) {
        if !self.is_on() {
            return;
        }
        let slots = self
            .slots
            .get_or_init(|| std::iter::repeat_with(Mutex::default).take(self.groups).collect());
        let Some(group) = self.group(slots, key) else { return };
        let mut group = group.lock();
        let oldest = || |slot: &&mut Slot| (slot.key != 0, slot.last);
        let known = group.iter().any(|slot| slot.key == key);
        let slot = match known {
            true => group.iter_mut().find(|slot| slot.key == key),
            false => group.iter_mut().min_by_key(oldest()),
        };
        let Some(slot) = slot else { return };
        if known && self.blocked(slot, now) {
            // One that was under way already: the block is not drawn out by it.
            return;
        }
        let counts =
            known && slot.count < self.failures && now < slot.first.plus_seconds(self.period);
        *slot = match counts {
            true => Slot { last: now, count: slot.count + 1, ..*slot },
            false => Slot { key, first: now, last: now, count: 1 },
        };
    }

    fn forget(&self, key: u64) {
        let Some(slots) = self.slots.get() else { return };
        let Some(group) = self.group(slots, key) else { return };
        for slot in group.lock().iter_mut().filter(|slot| slot.key == key) {
            *slot = Slot::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Span;

    fn throttle(pair: u32, address: u32, period: u64) -> Throttle {
        Throttle::new(&Auth {
            pair_failures: pair,
            address_failures: address,
            failure_period: Span::seconds(period),
            ..Auth::default()
        })
    }

    fn user(name: &str) -> Jid {
        Jid::parse(&format!("{name}@localhost")).unwrap()
    }

    fn at(seconds: u64) -> Millis {
        Millis(1_000_000 + seconds * 1000)
    }

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn lj_30_three_failures_of_a_pair_block_it_and_nothing_else() {
        let throttle = throttle(3, 100, 300);
        let (alice, bob) = (user("alice"), user("bob"));
        for second in [0, 10, 20] {
            assert!(!throttle.refuses(&alice, HOME, at(second)));
            throttle.failed(&alice, HOME, at(second));
        }
        assert!(throttle.refuses(&alice, HOME, at(20)));
        assert!(!throttle.refuses(&alice, ELSEWHERE, at(20)), "the owner is not locked out");
        assert!(!throttle.refuses(&bob, HOME, at(20)));
        // Failures that were under way do not draw it out.
        throttle.failed(&alice, HOME, at(200));
        assert!(throttle.refuses(&alice, HOME, at(319)));
        assert!(!throttle.refuses(&alice, HOME, at(320)));
        throttle.failed(&alice, HOME, at(320));
        assert!(!throttle.refuses(&alice, HOME, at(320)), "it begins anew");
    }

    #[test]
    fn lj_30_a_success_clears_the_pair_but_not_the_address() {
        let throttle = throttle(3, 4, 300);
        let (alice, bob) = (user("alice"), user("bob"));
        throttle.failed(&alice, HOME, at(0));
        throttle.failed(&alice, HOME, at(1));
        throttle.succeeded(&alice, HOME);
        throttle.failed(&alice, HOME, at(2));
        assert!(!throttle.refuses(&alice, HOME, at(2)));
        throttle.failed(&bob, HOME, at(3));
        assert!(throttle.refuses(&alice, HOME, at(3)), "four from here");
        assert!(throttle.refuses(&user("carol"), HOME, at(3)));
        assert!(!throttle.refuses(&bob, ELSEWHERE, at(3)));
    }

    #[test]
    fn lj_30_an_ipv6_network_is_one_address_and_mapped_ipv4_is_ipv4() {
        let throttle = throttle(1, 0, 300);
        let alice = user("alice");
        throttle.failed(&alice, "2001:db8:0:1::1".parse().unwrap(), at(0));
        assert!(throttle.refuses(&alice, "2001:db8:0:1:ffff::2".parse().unwrap(), at(0)));
        assert!(!throttle.refuses(&alice, "2001:db8:0:2::1".parse().unwrap(), at(0)));
        throttle.failed(&alice, "::ffff:192.0.2.1".parse().unwrap(), at(0));
        assert!(throttle.refuses(&alice, HOME, at(0)));
    }

    #[test]
    fn lj_30_it_can_be_turned_off() {
        for throttle in [throttle(0, 0, 300), throttle(3, 100, 0)] {
            for _ in 0..1000 {
                throttle.failed(&user("alice"), HOME, at(0));
            }
            assert!(!throttle.refuses(&user("alice"), HOME, at(0)));
            assert!(throttle.pairs.slots.get().is_none(), "it takes no memory then");
        }
    }

    #[test]
    fn lj_30_the_memory_is_fixed_and_the_oldest_are_forgotten() {
        let throttle = throttle(1, 0, 300);
        let alice = user("alice");
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        let many = u32::try_from(4 * PAIRS * WAYS).unwrap();
        for number in 0..many {
            throttle.failed(&alice, address(number), at(number.into()).min(at(200)));
        }
        let blocked = (0..many).filter(|n| throttle.refuses(&alice, address(*n), at(200))).count();
        assert!(blocked <= PAIRS * WAYS);
        throttle.failed(&alice, address(many), at(200));
        assert!(throttle.refuses(&alice, address(many), at(200)), "the newest is there");
    }

    proptest! {
        /// Against lists of failures, for as few keys as fit.
        #[test]
        fn lj_30_it_counts_like_a_plain_list(
            steps in proptest::collection::vec((0usize..3, 0usize..2, 0u64..40, 0u8..8), 1..120),
        ) {
            let throttle = throttle(3, 0, 60);
            let users = ["a", "b", "c"].map(user);
            let addresses = [HOME, ELSEWHERE];
            let mut model: HashMap<(usize, usize), Vec<u64>> = HashMap::new();
            let mut now = 0;
            for (who, place, wait, what) in steps {
                now += wait;
                let failures = model.entry((who, place)).or_default();
                if failures.len() == 3 && failures[2] + 60 <= now
                    || failures.len() < 3 && failures.first().is_some_and(|first| first + 60 <= now)
                {
                    failures.clear();
                }
                let (user, address) = (&users[who], addresses[place]);
                prop_assert_eq!(throttle.refuses(user, address, at(now)), failures.len() == 3);
                if what == 0 {
                    throttle.succeeded(user, address);
                    failures.clear();
                } else {
                    throttle.failed(user, address, at(now));
                    if failures.len() < 3 {
                        failures.push(now);
                    }
                }
            }
        }
    }
}
