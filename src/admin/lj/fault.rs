//! The errors of the protocol, in one table: number, whether trying again may help, text, and the
//! condition that stands for it in XMPP. The hundreds are the class: user, client, access, limit, server.
//!
//! Deliberately absent: numbers about journals and entries, and a text for an unknown number: there is
//! none that is not in the table.

use server::{
    bearer::NotBorne,
    command::{CommandError, ErrorKind},
    login::NotProved,
};
use wire::{Condition, ErrorType};

macro_rules! numbers {
    ($($variant:ident $number:literal $xmpp:expr, $kind:ident, $text:literal;)*) => {
        /// An error of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(test), expect(dead_code, reason = "some stand for what is not here"))]
        pub(super) enum Number { $($variant,)* }

        impl Number {
            /// All of them.
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its number.
            pub(super) fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// What it is, without the class.
            fn plain(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The same in XMPP: a condition of RFC 6120 (of SASL, streams or stanzas), and what the
            /// peer can do about it.
            #[cfg_attr(not(test), expect(dead_code, reason = "the table is whole"))]
            fn xmpp(self) -> (&'static str, ErrorType) {
                match self { $(Self::$variant => ($xmpp, ErrorType::$kind),)* }
            }
        }
    };
}

numbers! {
    User 100 Condition::NotAuthorized.as_str(), Auth, "Invalid username";
    Password 101 Condition::NotAuthorized.as_str(), Auth, "Invalid password";
    Expired 105 "credentials-expired", Auth, "Challenge expired";
    NotAllowed 156 Condition::NotAllowed.as_str(), Cancel, "Not allowed to this account";
    Missing 200 Condition::BadRequest.as_str(), Modify, "Missing required argument";
    Method 201 Condition::BadRequest.as_str(), Modify, "Unknown mode";
    TooMany 202 Condition::BadRequest.as_str(), Modify, "Too many arguments";
    Argument 203 Condition::BadRequest.as_str(), Modify, "Invalid argument";
    Version 207 "unsupported-version", Cancel, "Protocol version mismatch";
    Encoding 208 Condition::BadRequest.as_str(), Modify, "Invalid text encoding";
    Access 300 Condition::Forbidden.as_str(), Auth, "No access to this account";
    Restricted 301 Condition::Forbidden.as_str(), Auth, "Not permitted";
    Locked 308 "account-disabled", Auth, "The account is locked";
    Held 311 "temporary-auth-failure", Wait, "Access is closed for now";
    Scope 333 Condition::Forbidden.as_str(), Auth, "The credential is not good for this";
    NotHere 335 Condition::NotAllowed.as_str(), Cancel, "Not allowed here";
    NotThis 336 Condition::NotAllowed.as_str(), Cancel, "Not allowed in this way";
    Rate 402 Condition::PolicyViolation.as_str(), Wait, "Too many failed logins or requests; wait";
    Internal 500 Condition::InternalServerError.as_str(), Wait, "Internal error";
    Storage 501 Condition::InternalServerError.as_str(), Wait, "Storage error";
    Unavailable 502 Condition::ResourceConstraint.as_str(), Wait, "Storage is out of reach; try again";
}

impl Number {
    /// What the peer reads: the class, if it is not the user's fault, and what it is.
    fn text(self) -> String {
        let class = match self.number() {
            500.. => "Server error: ",
            200.. => "Client error: ",
            _ => "",
        };
        format!("{class}{}", self.plain())
    }
}

/// An error as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) number: Number,
    pub(super) text: String,
}

impl Fault {
    /// With more about it.
    pub(super) fn with(number: Number, detail: impl std::fmt::Display) -> Self {
        Self { number, text: format!("{}: {detail}", number.text()) }
    }

    /// In these words and no others.
    pub(super) fn said(number: Number, text: impl Into<String>) -> Self {
        Self { number, text: text.into() }
    }
}

impl From<Number> for Fault {
    fn from(number: Number) -> Self {
        Self { number, text: number.text() }
    }
}

impl From<CommandError> for Fault {
    fn from(error: CommandError) -> Self {
        let number = match error.kind() {
            ErrorKind::Throttled => Number::Rate,
            // What has failed inside is the log's, not the peer's.
            ErrorKind::Internal => return Number::Unavailable.into(),
            ErrorKind::Forbidden | ErrorKind::Login => Number::Restricted,
            ErrorKind::Failed | ErrorKind::Usage => Number::Argument,
        };
        Self::with(number, error.message)
    }
}

impl From<NotProved> for Fault {
    fn from(why: NotProved) -> Self {
        Self::from(match why {
            NotProved::Disabled => Number::Locked,
            NotProved::Held => Number::Held,
            NotProved::Throttled => Number::Rate,
            NotProved::Unavailable => Number::Unavailable,
            NotProved::Wrong => Number::Password,
        })
    }
}

impl From<NotBorne> for Fault {
    /// Whatever is wrong with a session string, the peer hears the same.
    fn from(why: NotBorne) -> Self {
        Self::from(match why {
            NotBorne::Throttled => Number::Rate,
            NotBorne::Unavailable => Number::Unavailable,
            _ => Number::Password,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as it stands in the documentation.
    fn table() -> String {
        let row = |number: &Number| {
            let (xmpp, kind) = number.xmpp();
            let again = if kind == ErrorType::Wait { "yes" } else { "no" };
            let (text, number) = (number.text(), number.number());
            format!("| {number} | {text} | {again} | `{xmpp}` | `{}` |\n", kind.as_str())
        };
        Number::ALL.iter().map(row).collect()
    }

    #[test]
    fn lj_13_the_documentation_has_the_whole_table() {
        let doc = include_str!("../../../doc/livejournal.md");
        assert!(doc.contains(&table()), "doc/livejournal.md lacks:\n{}", table());
    }

    #[test]
    fn lj_13_what_is_transient_is_wait_in_xmpp_and_nothing_else_is() {
        for number in Number::ALL {
            let transient = matches!(number.number(), 311 | 400..);
            let wait = number.xmpp().1 == ErrorType::Wait;
            assert_eq!(transient, wait, "{number:?}");
        }
        let mut numbers: Vec<_> = Number::ALL.iter().map(|number| number.number()).collect();
        let sorted = numbers.clone();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, sorted, "each number once, in order");
    }

    #[test]
    fn lj_13_the_class_is_in_front_unless_it_is_the_user_s_fault() {
        assert_eq!(Fault::from(Number::Password).text, "Invalid password");
        assert_eq!(Fault::with(Number::Method, "x").text, "Client error: Unknown mode: x");
        assert_eq!(Fault::from(Number::Rate).text.split(':').next(), Some("Client error"));
        assert_eq!(Fault::from(Number::Internal).text, "Server error: Internal error");
    }
}
