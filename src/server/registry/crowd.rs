//! The sessions of one index row: usually one, but all of a server's behind one proxy.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    ops::Bound,
    sync::Arc,
};

use super::Few;
use crate::{Session, id::SessionId};

/// More than this are kept in order: to find one of a million in a list takes a millisecond.
const FEW: usize = 32;

/// Sessions of one index row, each once.
#[derive(Debug)]
pub(super) enum Crowd {
    Few(Few),
    Many(BTreeMap<SessionId, Arc<Session>>),
}

impl Default for Crowd {
    fn default() -> Self {
        Self::Few(Few::new())
    }
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn push(&mut self, session: Arc<Session>) {
        match self {
            Self::Few(few) if few.len() < FEW => few.push(session),
            Self::Few(few) => {
                let all = few.drain(..).chain([session]).map(|session| (session.id, session));
                *self = Self::Many(all.collect());
            }
            Self::Many(many) => {
                many.insert(session.id, session);
            }
        }
    }

    fn remove(&mut self, session: &Session) {
        match self {
            Self::Few(few) => few.retain(|other| !std::ptr::eq(&raw const **other, session)),
            Self::Many(many) => {
                many.remove(&session.id);
                // Not at once, so that it does not go back and forth.
                if many.len() <= FEW / 2 {
                    *self = Self::Few(many.values().cloned().collect());
                }
            }
        }
    }

    /// Appends up to `limit` sessions behind the cursor to `out`; the cursor to go on from, if there
    /// may be more. A small crowd comes whole, in no particular order.
    fn page(
        &self,
        after: Option<SessionId>,
        limit: usize,
        out: &mut Vec<Arc<Session>>,
    ) -> Option<SessionId> {
        match self {
            Self::Few(few) => {
                // It may have shrunk since the page before.
                out.extend(
                    few.iter().filter(|session| after.is_none_or(|a| session.id > a)).cloned(),
                );
                None
            }
            Self::Many(many) => {
                let start = after.map_or(Bound::Unbounded, Bound::Excluded);
                let before = out.len();
                let rest = many.range((start, Bound::Unbounded));
                out.extend(rest.take(limit).map(|(_, session)| session.clone()));
                (out.len() - before == limit).then(|| out.last().map(|session| session.id))?
            }
        }
    }
}

/// Removes a session from a row, and the row with its last one.
pub(super) fn remove<K, Q>(map: &mut HashMap<K, Crowd>, key: &Q, session: &Session)
where
    K: Eq + Hash + Borrow<Q>,
    Q: Eq + Hash + ?Sized,
{
    if let Some(crowd) = map.get_mut(key) {
        crowd.remove(session);
        if crowd.len() == 0 {
            map.remove(key);
        }
    }
}

/// All sessions of a row; `with` gives access to it, and is asked again for each page, so that its
/// lock is never held for long.
pub(super) fn all(mut with: impl FnMut(&mut dyn FnMut(&Crowd)), limit: usize) -> Vec<Arc<Session>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let mut more = None;
        with(&mut |crowd| more = crowd.page(after, limit, &mut found));
        if more.is_none() {
            return found;
        }
        after = more;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::clock::Millis;

    fn session(id: u128) -> Arc<Session> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(Session::new(SessionId(id), peer, Millis(0)))
    }

    fn ids(crowd: &Crowd) -> Vec<u128> {
        let mut ids: Vec<_> = all(|see| see(crowd), 7).iter().map(|session| session.id.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_crowd_grows_and_shrinks_and_loses_nobody() {
        let mut map: HashMap<&str, Crowd> = HashMap::new();
        let sessions: Vec<_> = (0..100).map(session).collect();
        for (count, one) in (1..).zip(&sessions) {
            let crowd = map.entry("a").or_default();
            crowd.push(one.clone());
            assert_eq!((crowd.len(), ids(crowd)), (count, (0..count as u128).collect()));
        }
        for (gone, one) in (1..).zip(&sessions[..99]) {
            remove(&mut map, "a", one);
            remove(&mut map, "a", one);
            assert_eq!(ids(&map["a"]), (gone..100).collect::<Vec<_>>());
        }
        assert!(matches!(map["a"], Crowd::Few(_)));
        remove(&mut map, "a", &sessions[99]);
        assert!(map.is_empty(), "no empty row stays");
    }

    #[test]
    fn the_usual_row_costs_no_more_than_a_list() {
        assert!(size_of::<Crowd>() <= 32, "{}", size_of::<Crowd>());
    }
}
