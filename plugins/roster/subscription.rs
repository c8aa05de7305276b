//! The subscription state machine of RFC 6121 section 3 and appendix A, as pure functions: what a
//! subscription stanza does to one side, and whether it goes any further.
//!
//! The nine states of the RFC are the legal combinations of four flags: nobody asks for what they
//! have, so `to` excludes `asked` and `from` excludes `pending`. Pre-approval (section 3.4) is a
//! fifth flag beside them.

/// A subscription stanza, as in the `type` of a presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Asks to see the other's presence.
    Subscribe,
    /// Lets the other see one's own.
    Subscribed,
    /// Stops seeing the other's.
    Unsubscribe,
    /// Denies, or stops letting the other see one's own.
    Unsubscribed,
}

impl Notice {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Subscribe, Self::Subscribed, Self::Unsubscribe, Self::Unsubscribed];

    /// The value of `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Subscribed => "subscribed",
            Self::Unsubscribe => "unsubscribe",
            Self::Unsubscribed => "unsubscribed",
        }
    }

    /// The notice of this `type`.
    #[must_use]
    pub fn parse(typ: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|notice| notice.as_str() == typ)
    }
}

/// How an account stands to one contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The account sees the contact's presence.
    pub to: bool,
    /// The contact sees the account's.
    pub from: bool,
    /// The account has asked, and was not answered yet ("pending out").
    pub asked: bool,
    /// The contact has asked, and was not answered yet ("pending in").
    pub pending: bool,
    /// A request of the contact will be granted without asking the account.
    pub approved: bool,
}

/// What a notice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The state from now on.
    pub after: State,
    /// Outbound: it goes to the contact. Inbound: it goes to the account's sessions.
    pub passes: bool,
    /// Inbound only: the server answers `subscribed` for the account.
    pub answers: bool,
}

impl State {
    /// The account sends a notice (appendix A.2).
    #[must_use]
    pub fn outbound(self, notice: Notice) -> Outcome {
        let mut after = self;
        let passes = match notice {
            // Requests and their withdrawals always go on, for the two sides may have lost step
            // and repeating them is how they find it again.
            Notice::Subscribe => {
                after.asked = !self.to;
                true
            }
            Notice::Unsubscribe => {
                (after.to, after.asked) = (false, false);
                true
            }
            Notice::Subscribed if self.pending => {
                (after.from, after.pending) = (true, false);
                true
            }
            Notice::Subscribed => {
                after.approved |= !self.from;
                false
            }
            Notice::Unsubscribed => {
                (after.from, after.pending, after.approved) = (false, false, false);
                self.from || self.pending
            }
        };
        Outcome { after, passes, answers: false }
    }

    /// The contact's notice arrives (appendix A.3). One that changes nothing goes no further.
    #[must_use]
    pub fn inbound(self, notice: Notice) -> Outcome {
        let mut after = self;
        let mut answers = false;
        match notice {
            Notice::Subscribe if self.from => answers = true,
            Notice::Subscribe if self.approved => {
                (after.from, after.pending) = (true, false);
                answers = true;
            }
            Notice::Subscribe => after.pending = true,
            Notice::Subscribed => {
                after.to |= self.asked;
                after.asked = false;
            }
            Notice::Unsubscribe => (after.from, after.pending) = (false, false),
            Notice::Unsubscribed => (after.to, after.asked) = (false, false),
        }
        Outcome { after, passes: after != self && !answers, answers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The RFC's names of the nine states, in its order.
    const STATES: [&str; 9] =
        ["None", "None+PO", "None+PI", "None+PO+I", "To", "To+PI", "From", "From+PO", "Both"];

    fn state(name: &str) -> State {
        let (base, pending) = name.split_once('+').unwrap_or((name, ""));
        State {
            to: base == "To" || base == "Both",
            from: base == "From" || base == "Both",
            asked: pending.starts_with("PO"),
            pending: pending.ends_with('I'),
            approved: false,
        }
    }

    fn name(state: State) -> &'static str {
        STATES.into_iter().find(|name| self::state(name) == state).unwrap_or("illegal")
    }

    /// Rows of a table of appendix A: state, whether it passes, state after.
    type Rows = [(&'static str, bool, &'static str); 9];

    fn holds(table: &str, notice: Notice, rows: Rows, step: fn(State, Notice) -> Outcome) {
        for ((before, passes, after), expected) in rows.into_iter().zip(STATES) {
            assert_eq!(before, expected, "{table} has a row for each state");
            let outcome = step(state(before), notice);
            assert_eq!((name(outcome.after), outcome.passes), (after, passes), "{table}: {before}");
        }
    }

    #[test]
    fn appendix_a_2_outbound() {
        holds(
            "A.2.1",
            Notice::Subscribe,
            [
                ("None", true, "None+PO"),
                ("None+PO", true, "None+PO"),
                ("None+PI", true, "None+PO+I"),
                ("None+PO+I", true, "None+PO+I"),
                ("To", true, "To"),
                ("To+PI", true, "To+PI"),
                ("From", true, "From+PO"),
                ("From+PO", true, "From+PO"),
                ("Both", true, "Both"),
            ],
            State::outbound,
        );
        holds(
            "A.2.2",
            Notice::Unsubscribe,
            [
                ("None", true, "None"),
                ("None+PO", true, "None"),
                ("None+PI", true, "None+PI"),
                ("None+PO+I", true, "None+PI"),
                ("To", true, "None"),
                ("To+PI", true, "None+PI"),
                ("From", true, "From"),
                ("From+PO", true, "From"),
                ("Both", true, "From"),
            ],
            State::outbound,
        );
        // Where nothing is pending, the approval is in advance: see the test below.
        for (before, after) in [("None+PI", "From"), ("None+PO+I", "From+PO"), ("To+PI", "Both")] {
            let outcome = state(before).outbound(Notice::Subscribed);
            assert_eq!((name(outcome.after), outcome.passes), (after, true), "A.2.3: {before}");
        }
        holds(
            "A.2.4",
            Notice::Unsubscribed,
            [
                ("None", false, "None"),
                ("None+PO", false, "None+PO"),
                ("None+PI", true, "None"),
                ("None+PO+I", true, "None+PO"),
                ("To", false, "To"),
                ("To+PI", true, "To"),
                ("From", true, "None"),
                ("From+PO", true, "None+PO"),
                ("Both", true, "To"),
            ],
            State::outbound,
        );
    }

    #[test]
    fn appendix_a_3_inbound() {
        holds(
            "A.3.1",
            Notice::Subscribe,
            [
                ("None", true, "None+PI"),
                ("None+PO", true, "None+PO+I"),
                ("None+PI", false, "None+PI"),
                ("None+PO+I", false, "None+PO+I"),
                ("To", true, "To+PI"),
                ("To+PI", false, "To+PI"),
                ("From", false, "From"),
                ("From+PO", false, "From+PO"),
                ("Both", false, "Both"),
            ],
            State::inbound,
        );
        holds(
            "A.3.2",
            Notice::Unsubscribe,
            [
                ("None", false, "None"),
                ("None+PO", false, "None+PO"),
                ("None+PI", true, "None"),
                ("None+PO+I", true, "None+PO"),
                ("To", false, "To"),
                ("To+PI", true, "To"),
                ("From", true, "None"),
                ("From+PO", true, "None+PO"),
                ("Both", true, "To"),
            ],
            State::inbound,
        );
        holds(
            "A.3.3",
            Notice::Subscribed,
            [
                ("None", false, "None"),
                ("None+PO", true, "To"),
                ("None+PI", false, "None+PI"),
                ("None+PO+I", true, "To+PI"),
                ("To", false, "To"),
                ("To+PI", false, "To+PI"),
                ("From", false, "From"),
                ("From+PO", true, "Both"),
                ("Both", false, "Both"),
            ],
            State::inbound,
        );
        holds(
            "A.3.4",
            Notice::Unsubscribed,
            [
                ("None", false, "None"),
                ("None+PO", true, "None"),
                ("None+PI", false, "None+PI"),
                ("None+PO+I", true, "None+PI"),
                ("To", true, "None"),
                ("To+PI", true, "None+PI"),
                ("From", false, "From"),
                ("From+PO", true, "From"),
                ("Both", true, "From"),
            ],
            State::inbound,
        );
        for known in ["From", "From+PO", "Both"] {
            assert!(state(known).inbound(Notice::Subscribe).answers, "granted already: {known}");
        }
    }

    #[test]
    fn approval_in_advance_answers_the_request_and_is_withdrawn_by_denying() {
        for before in ["None", "None+PO", "To"] {
            let given = state(before).outbound(Notice::Subscribed);
            assert!(given.after.approved && !given.passes, "{before}");
            let asked = given.after.inbound(Notice::Subscribe);
            assert!(asked.answers && asked.after.from && !asked.passes, "{before}");
            let withdrawn = given.after.outbound(Notice::Unsubscribed);
            assert_eq!((withdrawn.after, withdrawn.passes), (state(before), false), "{before}");
        }
        for before in ["From", "From+PO", "Both"] {
            let outcome = state(before).outbound(Notice::Subscribed);
            assert_eq!((outcome.after, outcome.passes), (state(before), false), "{before}");
        }
    }
}
