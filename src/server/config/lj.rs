//! `[lj]`: LiveJournal's protocol.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// LiveJournal's protocol: the modes about sessions and what it takes to use them, at the HTTP doors
/// under `/interface/flat` and `/interface/xmlrpc`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lj {
    /// Whether it is offered.
    pub enabled: bool,
    /// The domain whose accounts are meant: the protocol knows names without one. Empty: the first of
    /// `[[host]]`.
    pub host: String,
    /// Whether a hyphen in a name means an underscore, as it did there. Accounts with a hyphen in their
    /// names cannot be reached then.
    pub fold_hyphens: bool,
    /// Whether `expire_id_N` ends session N whatever its value, as the protocol's first server did.
    /// `false`: only if the value is true, as its documentation says.
    pub expire_id_presence: bool,
    /// How long a challenge is good. `off`: there are none.
    pub challenge: Span,
    /// What everybody is answered instead of anything being done. Empty: nothing of the kind.
    pub maintenance: String,
}

impl Default for Lj {
    fn default() -> Self {
        Self {
            enabled: false,
            host: String::new(),
            fold_hyphens: false,
            expire_id_presence: false,
            challenge: Span::seconds(60),
            maintenance: String::new(),
        }
    }
}
