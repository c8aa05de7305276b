//! The privacy clock: personal details grow vaguer with time, by the ladder in `[privacy]`, wherever
//! they are stored. An address is exact at first, then only its network, then nothing; the client's
//! software is forgotten at once.
//!
//! Two things hold it. Whoever shows a stored detail asks [`address`] or [`software`] first, so that
//! nothing overdue is shown; and a slow pass over all accounts ([`Server::age_step`]) rewrites the
//! rows themselves, in bounded batches. A table takes part by an [`Aging`] in [`AGED`].
//!
//! Deliberately untouched: a connection that is there has its address, however old it is.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    Server,
    client::book,
    clock::Millis,
    config::{Privacy, Span},
    history,
    id::AccountId,
    store::{Batch, Op, Owner, Range, Row, StoreError, Table},
};

/// What is left of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it.
    Exact(IpAddr),
    /// The network that it is in.
    Network(IpNet),
    /// Nothing.
    Nothing,
}

/// Empty if nothing is left.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(address) => address.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Nothing => Ok(()),
        }
    }
}

/// Bits that are left of an address: what an access provider has, not what a customer has.
const IPV4_NETWORK: u8 = 24;
const IPV6_NETWORK: u8 = 48;

/// Whether `age` seconds are as many as the step allows, or more.
fn over(step: Span, age: u64) -> bool {
    step.get().is_some_and(|step| step <= age)
}

/// What may be shown of an address that was noted `age` seconds ago.
#[must_use]
pub fn seen(address: IpAddr, age: u64, ladder: &Privacy) -> Shown {
    if over(ladder.address_network, age) {
        Shown::Nothing
    } else if over(ladder.address_exact, age) {
        network(address.to_canonical())
    } else {
        Shown::Exact(address.to_canonical())
    }
}

fn network(address: IpAddr) -> Shown {
    let bits = if address.is_ipv4() { IPV4_NETWORK } else { IPV6_NETWORK };
    IpNet::new(address, bits).map_or(Shown::Nothing, |network| Shown::Network(network.trunc()))
}

/// The same for a stored address, which may be a network already. What is not an address is not
/// shown.
#[must_use]
pub fn address(stored: &str, age: u64, ladder: &Privacy) -> Option<String> {
    let exact = stored.parse::<IpAddr>().map(|address| seen(address, age, ladder));
    let shown = exact.or_else(|_| {
        stored.parse::<IpNet>().map(|network| match seen(network.addr(), age, ladder) {
            Shown::Nothing => Shown::Nothing,
            _ => Shown::Network(network),
        })
    });
    shown.ok().filter(|shown| *shown != Shown::Nothing).map(|shown| shown.to_string())
}

/// What may be shown of the software that was noted `age` seconds ago.
#[must_use]
pub fn software(stored: Option<String>, age: u64, ladder: &Privacy) -> Option<String> {
    stored.filter(|_| !over(ladder.software, age))
}

/// How the rows of one table of accounts grow old.
pub struct Aging {
    /// Which table.
    pub table: &'static Table,
    /// What is to be written instead of a row, at this time; `None` if it stays as it is. It happens
    /// only if the row is still as it was read.
    pub change: fn(&Server, Owner, &Row, Millis) -> Option<Batch>,
}

/// All tables of accounts with rows that grow old.
pub(crate) const AGED: &[&Aging] = &[&history::AGING, &book::AGING];

/// Rows that are read, and accounts that are looked at, in one step.
const ROWS: usize = 500;
const ACCOUNTS: usize = 100;
/// Between two steps.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two rounds over all accounts, in seconds.
const REST: u64 = 3600;

/// Where the pass is.
#[derive(Default)]
pub(crate) struct Walk {
    /// The last account, by name, that was seen to.
    after: Option<String>,
    /// The account in work: which of the tables, and the last key that was seen to.
    inside: Option<(AccountId, usize, Option<bytes::Bytes>)>,
    /// The accounts to come.
    ahead: std::collections::VecDeque<(AccountId, String)>,
    /// When the next round may begin.
    rests: Millis,
}

/// What a step of the pass has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Rows that were changed or removed.
    pub changed: usize,
    /// Every account has been seen to: the round is over.
    pub finished: bool,
}

impl Server {
    /// Rewrites rows of one owner that have grown old. A row that somebody else has changed meanwhile
    /// is left for the next time. Gives the number of rows that were changed.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn age_rows(
        &self,
        aging: &Aging,
        owner: Owner,
        rows: &[Row],
    ) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let changes: Vec<Batch> = rows
            .iter()
            .filter_map(|row| {
                let value = Some(row.value.clone());
                let change = (aging.change)(self, owner, row, now)?;
                Some(Batch::new().expect(aging.table, owner, row.key.clone(), value).and(change))
            })
            .collect();
        if changes.is_empty() {
            return Ok(0);
        }
        let all: Vec<Op> = changes.iter().flat_map(|change| change.ops.clone()).collect();
        match self.store.commit(Batch { ops: all }).await {
            Ok(()) => return Ok(changes.len()),
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
        // One of them is somebody else's by now: each for itself.
        let mut changed = 0;
        for change in changes {
            match self.store.commit(change).await {
                Ok(()) => changed += 1,
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }

    /// One bounded step of the pass over all accounts.
    ///
    /// # Errors
    /// When storage fails; the step is done again the next time.
    pub async fn age_step(self: &Arc<Self>) -> Result<Step, StoreError> {
        let mut walk = self.walk.lock().await;
        let mut step = Step::default();
        let (mut rows_left, mut accounts_left) = (ROWS, ACCOUNTS);
        while rows_left > 0 {
            let Some((account, table, after)) = walk.inside.clone() else {
                if accounts_left == 0 {
                    break;
                }
                accounts_left -= 1;
                if walk.ahead.is_empty() {
                    let page = self.accounts(walk.after.as_deref(), ACCOUNTS).await?;
                    walk.ahead.extend(page.into_iter().map(|account| (account.id, account.jid)));
                }
                let Some((account, jid)) = walk.ahead.pop_front() else {
                    step.changed += self.age_history().await?;
                    step.finished = true;
                    *walk = Walk { rests: self.clock.now().plus_seconds(REST), ..Walk::default() };
                    break;
                };
                walk.after = Some(jid);
                walk.inside = Some((account, 0, None));
                continue;
            };
            let Some(aging) = AGED.get(table) else {
                walk.inside = None;
                continue;
            };
            let rows =
                self.store.rows(aging.table, account.0, Range::page(after, rows_left)).await?;
            step.changed += self.age_rows(aging, account.0, &rows).await?;
            walk.inside = Some(match rows.last() {
                Some(last) if rows.len() == rows_left => (account, table, Some(last.key.clone())),
                _ => (account, table + 1, None),
            });
            rows_left -= rows.len();
        }
        Ok(step)
    }

    /// Goes over all accounts again and again, slowly, until the server stops.
    pub async fn age_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopping() {
            ticks.tick().await;
            if self.clock.now() < self.walk.lock().await.rests {
                continue;
            }
            match self.age_step().await {
                Ok(step) if step.changed > 0 => {
                    tracing::debug!(event = "aged", rows = step.changed);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(event = "aging-failed", %error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    fn ladder(exact: u64, network: u64, software: u64) -> Privacy {
        let [address_exact, address_network, software] =
            [exact, network, software].map(Span::seconds);
        Privacy { address_exact, address_network, software }
    }

    fn shown(address: &str, age: u64) -> String {
        seen(address.parse().unwrap(), age, &Privacy::default()).to_string()
    }

    #[test]
    fn b_20_an_address_grows_vaguer_step_by_step() {
        for (address, network) in
            [("203.0.113.77", "203.0.113.0/24"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48")]
        {
            assert_eq!(shown(address, 30 * DAY - 1), address);
            assert_eq!(shown(address, 30 * DAY), network);
            assert_eq!(shown(address, 180 * DAY - 1), network);
            assert_eq!(shown(address, 180 * DAY), "");
        }
        assert_eq!(shown("::ffff:203.0.113.77", 30 * DAY), "203.0.113.0/24");
    }

    #[test]
    fn b_20_each_step_can_be_left_out() {
        let of = |ladder: Privacy, age| address("203.0.113.77", age, &ladder);
        assert_eq!(of(ladder(0, 0, 0), u64::MAX).as_deref(), Some("203.0.113.77"));
        assert_eq!(of(ladder(1, 0, 0), u64::MAX).as_deref(), Some("203.0.113.0/24"));
        assert_eq!(of(ladder(0, 9, 0), 8).as_deref(), Some("203.0.113.77"));
        assert_eq!(of(ladder(0, 9, 0), 9), None);
        let software = |age| software(Some("x".into()), age, &ladder(1, 1, 9));
        assert_eq!((software(8).as_deref(), software(9)), (Some("x"), None));
    }

    #[test]
    fn b_20_what_is_not_an_address_is_not_shown() {
        for bad in ["", "alice", "203.0.113.0/99", "203.0.113"] {
            assert_eq!(address(bad, 0, &Privacy::default()), None, "{bad}");
        }
    }

    proptest! {
        /// It does not matter how often, and when, a row was rewritten on the way.
        #[test]
        fn b_20_growing_old_in_steps_is_growing_old_at_once(
            bits: u128,
            v4: bool,
            exact in 0u64..50,
            network in 0u64..50,
            ages in proptest::collection::vec(0u64..60, 1..6),
        ) {
            let ip: IpAddr = match v4 {
                true => std::net::Ipv4Addr::from_bits(bits as u32).into(),
                false => std::net::Ipv6Addr::from_bits(bits).into(),
            };
            let ladder = ladder(exact, network, 0);
            let mut ages = ages;
            ages.sort_unstable();
            let last = *ages.last().unwrap();
            let mut stored = Some(ip.to_canonical().to_string());
            for age in ages {
                stored = stored.and_then(|stored| address(&stored, age, &ladder));
            }
            // A shorter last step takes all; the network of a network is the same.
            let once = address(&ip.to_canonical().to_string(), last, &ladder);
            prop_assert_eq!(stored, once);
        }
    }
}
