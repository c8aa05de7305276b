//! Patterns of addresses, as in `usher session list '*@example.org'`.

/// A JID pattern: `*` stands for any text; a pattern without resource matches all resources.
pub(super) struct Pattern {
    parts: Vec<String>,
    bare: bool,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        // Patterns are not addresses; the one preparation that matters for them is case.
        let (bare, resource) = match text.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource)),
            None => (text, None),
        };
        let whole = match resource {
            Some(resource) => format!("{}/{resource}", bare.to_lowercase()),
            None => bare.to_lowercase(),
        };
        let parts = whole.split('*').map(str::to_owned).collect();
        Self { parts, bare: resource.is_none() }
    }

    /// Whether it can match the addresses of one account only.
    pub(super) fn names_one(&self) -> bool {
        self.parts.len() == 1
    }

    pub(super) fn matches(&self, jid: &str) -> bool {
        let jid = if self.bare { jid.split('/').next().unwrap_or(jid) } else { jid };
        let Some(((first, last), middle)) = self.split() else { return false };
        let Some(last) = last else { return jid == first };
        let Some(mut rest) = jid.strip_prefix(first).and_then(|rest| rest.strip_suffix(last))
        else {
            return false;
        };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    #[expect(clippy::type_complexity, reason = "first, last and what is between")]
    fn split(&self) -> Option<((&str, Option<&str>), &[String])> {
        let (first, rest) = self.parts.split_first()?;
        match rest.split_last() {
            None => Some(((first, None), &[])),
            Some((last, middle)) => Some(((first, Some(last)), middle)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_bare_and_full_addresses() {
        let matches = |pattern: &str, jid: &str| Pattern::new(pattern).matches(jid);
        assert!(matches("alice@localhost", "alice@localhost/phone"));
        assert!(matches("Alice@localhost", "alice@localhost"));
        assert!(matches("*@localhost", "bob@localhost/x"));
        assert!(matches("*li*@*", "alice@localhost/x"));
        assert!(matches("alice@localhost/ph*", "alice@localhost/phone"));
        assert!(!matches("alice@localhost/ph*", "alice@localhost/Phone"));
        assert!(!matches("alice", "alice@localhost"));
        assert!(!matches("*aa*", "a@b"), "parts do not overlap");
        assert!(!matches("ab*ba", "aba"), "first and last do not overlap");
    }
}
