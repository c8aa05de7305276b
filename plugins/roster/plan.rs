//! What a subscription stanza does to both sides, worked out before anything is stored or sent.
//!
//! Both rosters change in one batch, so there is no moment at which a crash leaves the two sides
//! out of step. With a contact elsewhere, only the own side is planned.

use super::{
    item::Item,
    subscription::{Notice, State},
};

/// One of the two sides of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The account that sends.
    Mine,
    /// The contact.
    Theirs,
}

/// Who the contact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// An account of this server, with room for this many more requests.
    Here(usize),
    /// Nobody: there is no such account.
    Nobody,
    /// Somebody that this server cannot reach.
    Elsewhere,
}

/// Something to be sent once the change is durable, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A subscription stanza to the sessions of a side.
    Deliver(Side, Notice),
    /// The contact as that side's clients are to see it; none: it is removed.
    Push(Side, Option<Item>),
    /// The presence of that side to the other, which sees it from now on.
    Show(Side),
    /// `unavailable` of that side to the other, which saw it until now.
    Hide(Side),
}

/// The plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The contact in the account's roster.
    pub mine: Option<Item>,
    /// The account in the contact's.
    pub theirs: Option<Item>,
    /// What is to be sent.
    pub steps: Vec<Step>,
    contact: Contact,
    /// The stanza, as it is kept if it becomes an unanswered request.
    request: String,
    /// The contact is on its way out of the roster: its clients hear of that alone.
    removing: bool,
}

impl Plan {
    /// A plan that changes nothing yet.
    #[must_use]
    pub fn new(
        mine: Option<Item>,
        theirs: Option<Item>,
        contact: Contact,
        request: String,
    ) -> Self {
        Self { mine, theirs, steps: Vec::new(), contact, request, removing: false }
    }

    /// The account sends a notice.
    #[must_use]
    pub fn says(mut self, notice: Notice) -> Self {
        let before = self.states();
        self.say(notice);
        self.presence(before);
        self
    }

    /// The account removes the contact; it takes back whatever there was between them (RFC 6121
    /// section 2.5).
    #[must_use]
    pub fn removes(mut self) -> Self {
        let before = self.states();
        let state = before.0;
        self.removing = true;
        self.steps.push(Step::Push(Side::Mine, None));
        if state.to || state.asked {
            self.say(Notice::Unsubscribe);
        }
        if state.from || state.pending {
            self.say(Notice::Unsubscribed);
        }
        self.mine = None;
        self.presence(before);
        self
    }

    fn say(&mut self, notice: Notice) {
        let outcome = state(self.mine.as_ref()).outbound(notice);
        self.set(Side::Mine, outcome.after);
        if !outcome.passes {
            return;
        }
        match self.contact {
            Contact::Here(_) => {
                if self.hear(Side::Theirs, notice) {
                    self.hear(Side::Mine, Notice::Subscribed);
                }
            }
            Contact::Nobody if notice == Notice::Subscribe => {
                self.hear(Side::Mine, Notice::Unsubscribed);
            }
            Contact::Nobody | Contact::Elsewhere => {}
        }
    }

    /// A notice arrives; true: it was granted at once.
    fn hear(&mut self, side: Side, notice: Notice) -> bool {
        let item = self.side(side);
        let before = state(item.as_ref());
        let outcome = before.inbound(notice);
        // A request beyond what is kept is dropped, as if the contact never answered it.
        let room = self.contact != Contact::Here(0) || item.is_some();
        if outcome.after.pending && !before.pending && !room {
            return false;
        }
        if outcome.passes {
            self.steps.push(Step::Deliver(side, notice));
        }
        self.set(side, outcome.after);
        outcome.answers
    }

    /// Enters a new state, and has clients told if they see a difference.
    fn set(&mut self, side: Side, after: State) {
        let before = self.side(side).clone().unwrap_or_else(Item::unlisted);
        let item = before.moved(after, Some(&self.request));
        let seen = item.clone().unwrap_or_else(Item::unlisted);
        let told_already = self.removing && side == Side::Mine;
        if !told_already && !seen.looks_like(&before) {
            self.steps.push(Step::Push(side, item.clone()));
        }
        match side {
            Side::Mine => self.mine = item,
            Side::Theirs => self.theirs = item,
        }
    }

    /// Whoever began or ceased to see the other is sent what there is to see.
    fn presence(&mut self, (mine, theirs): (State, State)) {
        let (mine_now, theirs_now) = self.states();
        let sides = [(Side::Mine, mine, mine_now), (Side::Theirs, theirs, theirs_now)];
        for (side, before, now) in sides {
            match (before.from, now.from) {
                (false, true) => self.steps.push(Step::Show(side)),
                (true, false) => self.steps.push(Step::Hide(side)),
                _ => {}
            }
        }
    }

    fn states(&self) -> (State, State) {
        (state(self.mine.as_ref()), state(self.theirs.as_ref()))
    }

    fn side(&self, side: Side) -> &Option<Item> {
        match side {
            Side::Mine => &self.mine,
            Side::Theirs => &self.theirs,
        }
    }
}

fn state(item: Option<&Item>) -> State {
    item.map(Item::state).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(mine: Option<Item>, theirs: Option<Item>, contact: Contact) -> Plan {
        Plan::new(mine, theirs, contact, "<presence type='subscribe'/>".into())
    }

    #[test]
    fn an_unknown_account_denies() {
        let done = plan(None, None, Contact::Nobody).says(Notice::Subscribe);
        let kinds = done.steps.iter().map(|step| match step {
            Step::Push(Side::Mine, Some(item)) => format!("push ask={}", item.ask),
            other => format!("{other:?}"),
        });
        let kinds: Vec<_> = kinds.collect();
        assert_eq!(kinds, ["push ask=true", "Deliver(Mine, Unsubscribed)", "push ask=false"]);
    }

    #[test]
    fn a_request_that_there_is_no_room_for_is_never_answered() {
        let done = plan(None, None, Contact::Here(0)).says(Notice::Subscribe);
        assert_eq!(done.theirs, None);
        assert!(done.mine.is_some_and(|item| item.ask));
    }

    #[test]
    fn removing_takes_back_both_directions() {
        let both = |request: Option<&str>| {
            let state = State { to: true, from: true, ..State::default() };
            Item::default().moved(state, request)
        };
        let done = plan(both(None), both(None), Contact::Here(9)).removes();
        assert_eq!(done.mine, None);
        assert_eq!(state(done.theirs.as_ref()), State::default());
        assert_eq!(done.steps.first(), Some(&Step::Push(Side::Mine, None)));
        let delivered = done.steps.iter().filter(|step| matches!(step, Step::Deliver(..)));
        assert_eq!(delivered.count(), 2, "{:?}", done.steps);
        assert!(done.steps.contains(&Step::Hide(Side::Mine)));
        assert!(done.steps.contains(&Step::Hide(Side::Theirs)));
    }

    /// Who may see whom, as a person would keep it: a grant and a request per direction.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Direction {
        granted: bool,
        asked: bool,
        in_advance: bool,
    }

    impl Direction {
        fn watcher_says(&mut self, wants: bool) {
            if !wants {
                (self.granted, self.asked) = (false, false);
            } else if self.in_advance {
                self.granted = true;
            } else if !self.granted {
                self.asked = true;
            }
        }

        fn watched_says(&mut self, grants: bool) {
            if !grants {
                *self = Self::default();
            } else if self.asked {
                (self.granted, self.asked) = (true, false);
            } else if !self.granted {
                self.in_advance = true;
            }
        }
    }

    proptest! {
        /// Whatever two people say to each other, both rosters tell the same story: what one is
        /// granted the other has given, what one has asked for waits at the other.
        #[test]
        fn two_rosters_never_disagree(said in prop::collection::vec((any::<bool>(), 0..5usize), 0..40)) {
            let (mut a, mut b): (Option<Item>, Option<Item>) = (None, None);
            // Who watches whom: a sees b, b sees a.
            let (mut a_sees, mut b_sees) = (Direction::default(), Direction::default());
            for (first, what) in said {
                let (mine, theirs) = if first { (&mut a, &mut b) } else { (&mut b, &mut a) };
                let (sees, seen) =
                    if first { (&mut a_sees, &mut b_sees) } else { (&mut b_sees, &mut a_sees) };
                let start = plan(mine.clone(), theirs.clone(), Contact::Here(9));
                let done = match Notice::ALL.get(what) {
                    Some(notice) => {
                        match notice {
                            Notice::Subscribe => sees.watcher_says(true),
                            Notice::Unsubscribe => sees.watcher_says(false),
                            Notice::Subscribed => seen.watched_says(true),
                            Notice::Unsubscribed => seen.watched_says(false),
                        }
                        start.says(*notice)
                    }
                    None => {
                        sees.watcher_says(false);
                        seen.watched_says(false);
                        start.removes()
                    }
                };
                (*mine, *theirs) = (done.mine, done.theirs);
                let (sa, sb) = (state(a.as_ref()), state(b.as_ref()));
                for (watcher, watched, model) in [(sa, sb, a_sees), (sb, sa, b_sees)] {
                    prop_assert_eq!((watcher.to, watched.from), (model.granted, model.granted));
                    prop_assert_eq!((watcher.asked, watched.pending), (model.asked, model.asked));
                    prop_assert_eq!(watched.approved, model.in_advance);
                }
            }
        }
    }
}
