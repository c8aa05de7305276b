//! Lists: in order of session ids, so that whoever goes on from a cursor misses nobody who stays and
//! sees nobody twice, whatever comes and goes in between. No lock is held for more than a few
//! microseconds, and none while a filter looks at a session.

use std::{ops::Bound, ops::ControlFlow, sync::Arc};

use wire::Jid;

use super::Registry;
use crate::{Session, id::SessionId};

/// Sessions that are taken out of the index under one lock.
pub(super) const CHUNK: usize = 256;

/// Sessions that are looked at without giving others their turn: one or two milliseconds.
pub const BUDGET: usize = 8_192;

/// A part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Those that the filter let through, in order of ids.
    pub sessions: Vec<Arc<Session>>,
    /// Where to go on; none at the end of the list. A page may be empty and not be the last.
    pub next: Option<SessionId>,
    /// How many sessions were looked at.
    pub looked_at: usize,
}

impl Registry {
    /// Up to `limit` sessions with an id greater than `after`, in order of ids.
    #[must_use]
    pub fn page(&self, after: Option<SessionId>, limit: usize) -> Vec<Arc<Session>> {
        let mut page = Vec::with_capacity(limit.min(CHUNK));
        let first = after.map_or(0, Self::id_shard);
        for shard in &self.sessions[first..] {
            while page.len() < limit {
                let last = page.last().map(|last: &Arc<Session>| last.id).or(after);
                let start = last.map_or(Bound::Unbounded, Bound::Excluded);
                let chunk = CHUNK.min(limit - page.len());
                let before = page.len();
                {
                    let shard = shard.read();
                    let rest = shard.range((start, Bound::Unbounded));
                    page.extend(rest.take(chunk).map(|(_, session)| session.clone()));
                }
                if page.len() - before < chunk {
                    break;
                }
            }
        }
        page
    }

    /// Looks at sessions in order of ids, at most `budget` of them, until `each` has enough. Gives
    /// the last that was looked at, if there are more behind it, and how many were.
    fn walk(
        &self,
        mut after: Option<SessionId>,
        budget: usize,
        mut each: impl FnMut(&Arc<Session>) -> ControlFlow<()>,
    ) -> (Option<SessionId>, usize) {
        let mut seen = 0;
        'all: while seen < budget {
            let wanted = CHUNK.min(budget - seen);
            let chunk = self.page(after, wanted);
            for session in &chunk {
                seen += 1;
                after = Some(session.id);
                if each(session).is_break() {
                    break 'all;
                }
            }
            if chunk.len() < wanted {
                return (None, seen);
            }
        }
        let more = after.filter(|_| !self.page(after, 1).is_empty());
        (more, seen)
    }

    /// Up to `limit` sessions that `filter` lets through, with an id greater than `after`. Looks at no
    /// more than `budget` sessions ([`BUDGET`] is a good one), so that it takes a bounded time however
    /// rare those are.
    pub fn page_where(
        &self,
        after: Option<SessionId>,
        limit: usize,
        budget: usize,
        mut filter: impl FnMut(&Session) -> bool,
    ) -> Page {
        let mut sessions = Vec::new();
        let (next, looked_at) = self.walk(after, budget, |session| {
            if filter(session) {
                sessions.push(session.clone());
            }
            if sessions.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        Page { sessions, next, looked_at }
    }

    /// How many sessions `filter` lets through, in all. Gives others their turn while it counts.
    pub async fn count_where(&self, mut filter: impl FnMut(&Session) -> bool) -> usize {
        let (mut count, mut after) = (0, None);
        loop {
            let (next, _) = self.walk(after, BUDGET, |session| {
                count += usize::from(filter(session));
                ControlFlow::Continue(())
            });
            if next.is_none() {
                return count;
            }
            after = next;
            tokio::task::yield_now().await;
        }
    }

    /// The sessions of an account, or the one with a full JID, in order of ids, as
    /// [`page_where`](Self::page_where) would give them: those that are ending included, until they
    /// are settled. Looks at that account's sessions only.
    pub fn page_of(
        &self,
        jid: &Jid,
        after: Option<SessionId>,
        limit: usize,
        mut filter: impl FnMut(&Session) -> bool,
    ) -> Page {
        let mut sessions: Vec<_> = self.of(jid.bare_str()).into_vec();
        sessions.extend(self.leaving(jid.bare_str()));
        // One that begins to end just now may be seen in both places.
        sessions.sort_by_key(|session| session.id);
        sessions.dedup_by_key(|session| session.id);
        let looked_at = sessions.len();
        sessions.retain(|session| {
            after.is_none_or(|after| session.id > after)
                && (jid.is_bare() || session.full() == Some(jid))
                && filter(session)
        });
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        let next = sessions.last().map(|last| last.id).filter(|_| more);
        Page { sessions, next, looked_at }
    }

    /// All sessions, in pages, so that no lock is held for long.
    pub fn all(&self) -> impl Iterator<Item = Arc<Session>> + '_ {
        let mut after = None;
        std::iter::from_fn(move || {
            let page = self.page(after, CHUNK);
            after = Some(page.last()?.id);
            Some(page)
        })
        .flatten()
    }
}
