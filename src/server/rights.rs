//! What a role may do with the accounts of others: one bit for each verb. Which verb a command is, its
//! declaration says; whether the caller may, `command::perform` decides before it runs, and nothing
//! else does. What somebody may do with the own account takes no right, only a role above
//! `restricted`.
//!
//! Deliberately absent: rights of single accounts. There are six roles, fixed and in an order; the
//! configuration says what those between the ends may do.

use std::{fmt, ops::BitAnd};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{account::Role, config::Roles};

macro_rules! rights {
    ($($(#[$doc:meta])* $variant:ident $name:literal $about:literal;)*) => {
        /// One thing that may be done to others. One table: the name in the configuration and on
        /// every face, and what it means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Right {
            $($(#[$doc])* $variant,)*
        }

        impl Right {
            /// All rights.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// The name in the configuration and on every face.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in a line.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

rights! {
    /// Reads and verifies the audit.
    Audit "audit" "read and verify the audit";
    /// Keeps accounts and addresses out.
    Block "block" "keep accounts and addresses out, and let them in again";
    /// Ends sessions.
    End "end" "end sessions";
    /// Sees who is there.
    List "list" "see accounts, sessions and tokens, addresses masked";
    /// Sees from where.
    ListIp "list-ip" "see addresses";
    /// Sets bounds.
    Policy "policy" "set what sessions and clients are bound by";
    /// Takes away credentials.
    Revoke "revoke" "revoke tokens and clients, and end what they opened";
    /// Stops and copies.
    Server "server" "stop the server, copy its data";
    /// Sees how the server is.
    Status "status" "see how the server is, in numbers";
    /// Makes credentials.
    Token "token" "make tokens that log in to an account";
    /// Adds, changes and deletes accounts.
    User "user" "add, change and delete accounts, set passwords and roles";
}

impl Right {
    /// The right of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|right| right.as_str() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of rights; on every face it is a list of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u16);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Every right.
    pub const ALL: Self = Self::of(Right::ALL);

    /// These rights.
    #[must_use]
    pub const fn of(rights: &[Right]) -> Self {
        let (mut set, mut rest) = (0, rights);
        while let [right, more @ ..] = rest {
            set |= right.bit();
            rest = more;
        }
        Self(set)
    }

    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// These and one more.
    #[must_use]
    pub const fn with(self, right: Right) -> Self {
        Self(self.0 | right.bit())
    }

    /// These but for one.
    #[must_use]
    pub const fn without(self, right: Right) -> Self {
        Self(self.0 & !right.bit())
    }

    /// Whether all of these are among `other`.
    #[must_use]
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.iter().copied().filter(move |right| self.has(*right))
    }
}

/// What both have.
impl BitAnd for Rights {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        rights.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Right::as_str).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Right::as_str))
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let right = |name: &String| {
            Right::parse(name).ok_or_else(|| de::Error::custom(format!("`{name}` is not a right")))
        };
        names.iter().map(right).collect()
    }
}

/// What the configuration's checks and reference go by.
impl JsonSchema for Rights {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rights".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = Right::ALL.iter().map(|right| right.as_str()).collect();
        json_schema!({ "type": "array", "items": { "type": "string", "enum": names } })
    }
}

impl Roles {
    /// What a role may do. Both ends are fixed: nobody can be shut out of the top, nor lifted from
    /// the bottom, by a configuration.
    #[must_use]
    pub fn rights(&self, role: Role) -> Rights {
        match role {
            Role::Restricted => Rights::NONE,
            Role::User => self.user.rights,
            Role::Viewer => self.viewer.rights,
            Role::Support => self.support.rights,
            Role::Operator => self.operator.rights,
            Role::Admin => Rights::ALL,
        }
    }

    /// The roles that have a right, least powerful first.
    pub fn with(&self, right: Right) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |role| self.rights(*role).has(right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_have_names_and_bits_of_their_own() {
        for (place, right) in Right::ALL.iter().enumerate() {
            assert_eq!(Right::parse(right.as_str()), Some(*right));
            assert!(!right.about().is_empty());
            for other in &Right::ALL[place + 1..] {
                assert_ne!(right.as_str(), other.as_str());
                assert!(!Rights::of(&[*right]).has(*other));
            }
        }
        assert_eq!(Right::parse("everything"), None);
    }

    #[test]
    fn sets_are_what_they_were_made_of_and_are_written_by_name() {
        let set = Rights::of(&[Right::End, Right::List]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Right::End, Right::List]);
        assert_eq!(set.to_string(), "end, list");
        assert_eq!(Rights::NONE.to_string(), "none");
        assert_eq!(set & Rights::of(&[Right::End, Right::User]), Rights::of(&[Right::End]));
        assert!(set.within(Rights::ALL) && !Rights::ALL.within(set) && Rights::NONE.is_empty());
        assert_eq!(set.without(Right::End).with(Right::End), set);
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"["end","list"]"#);
        assert_eq!(serde_json::from_str::<Rights>(&text).unwrap(), set);
        assert!(serde_json::from_str::<Rights>(r#"["edn"]"#).is_err());
    }

    #[test]
    fn a_more_powerful_role_can_do_no_less() {
        let roles = Roles::default();
        for pair in Role::ALL.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(roles.rights(pair[0]).within(roles.rights(pair[1])), "{pair:?}");
        }
        assert_eq!(roles.with(Right::Revoke).collect::<Vec<_>>(), [Role::Operator, Role::Admin]);
    }

    #[test]
    fn the_ends_are_fixed() {
        let mut roles = Roles::default();
        roles.operator.rights = Rights::NONE;
        roles.user.rights = Rights::ALL;
        assert_eq!(roles.rights(Role::Restricted), Rights::NONE);
        assert_eq!(roles.rights(Role::Admin), Rights::ALL);
    }
}
