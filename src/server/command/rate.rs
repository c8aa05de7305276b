//! How many commands an account may give in `commands.period`: those that only look and those that change
//! something are counted apart. Who is at the admin socket is not counted unless it acts as an account,
//! nor is what was planned, which was counted when it was.
//!
//! Whoever has used that up may still end sessions of its own, `commands.own_ends` times: nobody is to
//! be kept from throwing a thief out by what the thief has done in its name.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{Command, CommandError, caller::Acting};
use crate::{Server, clock::Millis, id::AccountId};

/// The command that ends what is one's own.
const PANIC: &str = "session end";
/// Counts that are kept before those that are past are looked for.
const KEPT: usize = 4_096;

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Change,
    OwnEnd,
    View,
}

/// What of one kind an account has done since then.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Millis,
    count: u32,
    /// The audit has it that it was too much.
    told: bool,
}

/// The counts of all accounts. Not durable.
#[derive(Default)]
pub(crate) struct Rates {
    windows: Mutex<HashMap<(AccountId, Kind), Window>>,
}

/// What comes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rated {
    /// It may be done.
    Free,
    /// It may be done with what is the account's own, and with nothing else: for anything else this is
    /// the answer.
    OnlyOwn(CommandError),
    /// It may not be done. `first`: since the account may again, nothing was refused.
    Refused { error: CommandError, first: bool },
}

impl Rates {
    /// Counts a call, or says when the account may again and whether this is the first refusal. At the
    /// very instant that the period has passed, it may.
    fn count(
        &self,
        account: AccountId,
        kind: Kind,
        limit: u32,
        period: u64,
        now: Millis,
    ) -> Result<(), (Millis, bool)> {
        let over = |window: &Window| window.since.plus_seconds(period) <= now;
        let mut windows = self.windows.lock();
        if windows.len() >= KEPT {
            windows.retain(|_, window| !over(window));
        }
        let fresh = Window { since: now, count: 0, told: false };
        let window = windows.entry((account, kind)).or_insert(fresh);
        if over(window) {
            *window = fresh;
        }
        if window.count < limit {
            window.count += 1;
            return Ok(());
        }
        let first = !std::mem::replace(&mut window.told, true);
        Err((window.since.plus_seconds(period), first))
    }
}

impl Server {
    /// Counts a command that an account gives.
    pub(super) fn rate(&self, acting: &Acting, command: &Command) -> Rated {
        let bounds = &self.config.commands;
        let Some(period) = bounds.period.get().filter(|_| acting.counts()) else {
            return Rated::Free;
        };
        let (kind, limit, key) = match command.mutates {
            true => (Kind::Change, bounds.changes, "changes"),
            false => (Kind::View, bounds.views, "views"),
        };
        let (now, id) = (self.clock.now(), acting.id());
        if limit == 0 {
            return Rated::Free;
        }
        let Err((until, first)) = self.rates.count(id, kind, limit, period, now) else {
            return Rated::Free;
        };
        let what = if command.mutates { "change something" } else { "look at something" };
        let message = format!(
            "`{}` has given {limit} commands that {what} within {}",
            acting.jid(),
            bounds.period
        );
        let wait = until.seconds_since(now).max(1);
        let hint = format!("try again in {wait}s, at {until}; the bound is `commands.{key}`");
        let error = CommandError { retry: Some(wait), ..CommandError::failed(message) }.hint(hint);
        let floor = bounds.own_ends;
        if command.name == PANIC && self.rates.count(id, Kind::OwnEnd, floor, period, now).is_ok() {
            return Rated::OnlyOwn(error);
        }
        if first {
            tracing::warn!(
                event = "commands-throttled",
                jid = acting.jid().as_str(),
                command = command.name,
            );
        }
        Rated::Refused { error, first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: AccountId = AccountId(1);
    const B: AccountId = AccountId(2);

    #[test]
    fn lj_32_so_many_in_a_period_and_at_its_end_again() {
        let rates = Rates::default();
        let at = |seconds: u64| Millis(1_000_000 + seconds * 1_000);
        let count = |account, kind, seconds| rates.count(account, kind, 3, 60, at(seconds));
        for second in [0, 10, 59] {
            assert_eq!(count(A, Kind::View, second), Ok(()));
        }
        assert_eq!(count(A, Kind::View, 59), Err((at(60), true)));
        assert_eq!(count(A, Kind::View, 59), Err((at(60), false)), "told once");
        assert_eq!((count(A, Kind::Change, 59), count(B, Kind::View, 59)), (Ok(()), Ok(())));
        // What was refused does not draw it out.
        assert_eq!(count(A, Kind::View, 60), Ok(()));
        assert_eq!(rates.count(A, Kind::OwnEnd, 0, 60, at(0)), Err((at(60), true)));
    }

    #[test]
    fn lj_32_what_is_past_is_forgotten() {
        let rates = Rates::default();
        for number in 0..KEPT as u64 {
            assert_eq!(rates.count(AccountId(number), Kind::View, 1, 60, Millis(0)), Ok(()));
        }
        assert_eq!(rates.count(AccountId(9_999), Kind::View, 1, 60, Millis(59_999)), Ok(()));
        assert_eq!(rates.windows.lock().len(), KEPT + 1);
        assert_eq!(rates.count(AccountId(9_998), Kind::View, 1, 60, Millis(60_000)), Ok(()));
        assert_eq!(rates.windows.lock().len(), 2, "the one that counts, and the new one");
    }

    #[test]
    fn the_command_that_is_exempt_is_there() {
        let command = crate::command::find(PANIC).expect("is in the table");
        assert!(command.mutates && command.scope == crate::command::Scope::Own);
    }
}
