//! One contact in an account's roster (RFC 6121 section 2.1.2), as stored and as shown.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use server::store::StoreError;
use wire::{Jid, Xml};

use super::{ROSTER, subscription::State};

/// A contact. Its address is its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What the account calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Box<str>>,
    /// Who sees whose presence.
    #[serde(default)]
    pub subscription: Subscription,
    /// The account has asked to see the contact's presence.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ask: bool,
    /// A request of the contact is granted in advance.
    #[serde(default, skip_serializing_if = "is_false")]
    pub approved: bool,
    /// Groups the account has put it in.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub groups: Box<[Box<str>]>,
    /// The contact's unanswered request: the stanza, stamped, as it is delivered at each login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<str>>,
    /// Not in the roster: only the contact's request is kept here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hidden: bool,
}

/// The attribute `subscription`, seen from the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subscription {
    /// Both see each other.
    Both,
    /// The contact sees the account.
    From,
    /// Neither sees the other.
    #[default]
    None,
    /// The account sees the contact.
    To,
}

impl Subscription {
    /// The attribute's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::From => "from",
            Self::None => "none",
            Self::To => "to",
        }
    }
}

impl Item {
    /// A contact that nothing is known of, and that is not shown until there is.
    #[must_use]
    pub fn unlisted() -> Self {
        Self { hidden: true, ..Self::default() }
    }

    /// How the account stands to it.
    #[must_use]
    pub fn state(&self) -> State {
        let (to, from) = match self.subscription {
            Subscription::Both => (true, true),
            Subscription::From => (false, true),
            Subscription::None => (false, false),
            Subscription::To => (true, false),
        };
        State {
            to,
            from,
            asked: self.ask,
            pending: self.request.is_some(),
            approved: self.approved,
        }
    }

    /// The same contact in another state; `request` is the stanza that made it pending, if one has
    /// just now. None: there is nothing left to keep.
    #[must_use]
    pub fn moved(&self, state: State, request: Option<&str>) -> Option<Self> {
        let shown = state.to || state.from || state.asked || state.approved;
        let after = Self {
            subscription: match (state.to, state.from) {
                (true, true) => Subscription::Both,
                (true, false) => Subscription::To,
                (false, true) => Subscription::From,
                (false, false) => Subscription::None,
            },
            ask: state.asked,
            approved: state.approved,
            request: match (state.pending, &self.request) {
                (false, _) => None,
                (true, Some(kept)) => Some(kept.clone()),
                (true, None) => request.map(Into::into),
            },
            hidden: self.hidden && !shown,
            ..self.clone()
        };
        (!after.hidden || after.request.is_some()).then_some(after)
    }

    /// Whether the account's clients see the same in both.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        let unasked = |item: &Self| Self { request: None, ..item.clone() };
        (self.hidden && other.hidden) || unasked(self) == unasked(other)
    }

    /// Writes the element `<item/>`.
    pub fn write(&self, jid: &Jid, xml: &mut Xml) {
        xml.open("item").attr("jid", jid.as_str()).attr_opt("name", &self.name);
        xml.attr("subscription", self.subscription.as_str());
        if self.ask {
            xml.attr("ask", "subscribe");
        }
        if self.approved {
            xml.attr("approved", "true");
        }
        for group in &self.groups {
            xml.leaf("group", group);
        }
        xml.close();
    }

    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Plain text and flags: there is nothing in it that JSON cannot say.
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    /// As read.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn decode(row: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(row)
            .map_err(|why| StoreError::Corrupt { table: ROSTER.name, why: why.to_string() })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_small_and_survives_a_round_trip() {
        let plain = Item { subscription: Subscription::Both, ..Item::default() };
        assert_eq!(plain.encode(), r#"{"subscription":"both"}"#);
        let full = Item {
            name: Some("Röméo <3".into()),
            ask: true,
            groups: ["Friends".into()].into(),
            request: Some("<presence type='subscribe'/>".into()),
            ..Item::default()
        };
        assert_eq!(Item::decode(&full.encode()), Ok(full));
        assert!(Item::decode(b"{").is_err());
    }

    #[test]
    fn a_request_alone_is_kept_but_not_shown() {
        let asked = State { pending: true, ..State::default() };
        let item = Item::unlisted().moved(asked, Some("<presence/>")).expect("is kept");
        assert!(item.hidden && item.looks_like(&Item::unlisted()));
        assert_eq!(item.moved(State::default(), None), None, "nothing left of a withdrawn request");
        let granted = item.moved(State { from: true, ..State::default() }, None).expect("is shown");
        assert!(!granted.hidden && granted.request.is_none());
    }
}
