//! XMPP addresses (RFC 7622, RFC 6122): `localpart@domainpart/resourcepart`, prepared once, here.
//!
//! A [`Jid`] that exists is prepared, so two addresses are the same account exactly when they are
//! equal. There is no unprepared form and no way to build one.
//!
//! RFC 7622 (PRECIS) and RFC 6122 (stringprep) disagree on a few thousand characters. What counts
//! is that an address means the same on both ends of a link, and the servers in the field prepare
//! with stringprep; so the rule is *produce what both would leave alone*:
//!
//! * localpart: nodeprep's mapping (B.1 removed, folded with B.2, NFKC). It differs from
//!   UsernameCaseMapped where that keeps a character another server would rewrite (`ß` becomes
//!   `ss`, `ς` becomes `σ`) or refuses one the others map (`ﬁ`, `①`). Characters younger than
//!   Unicode 3.2 are refused: most of the network could not address them, and their compatibility
//!   mappings are how two names that look different once became one account.
//! * resourcepart: resourceprep's mapping (B.1 removed, NFKC) with the spaces of OpaqueString.
//!   NFKC instead of OpaqueString's NFC because a peer that sends back `x2` for `x²` must find the
//!   session. Characters younger than Unicode 3.2 are let through (emoji in nicknames and device
//!   names are common, and servers in the field accept them) unless they are invisible.
//! * domainpart: UTS 46 to U-labels in lower case, the root's trailing dot removed, IPv6 literals
//!   in brackets and in their canonical spelling. Underscores are let through: hosts in closed
//!   networks have them. Nothing is looked up.
//!
//! XEP-0106 escapes are ordinary characters here.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, Hyphens, Uts46};
use memchr::memchr;
use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The longest prepared part, in bytes (RFC 7622 sections 3.2 to 3.4).
const PART_MAX: usize = 1023;

/// The longest part that is looked at at all, in bytes. Preparation may shrink a part, but a part
/// this long is an attack.
const RAW_MAX: usize = 4 * PART_MAX;

/// A prepared XMPP address. Cloning counts a reference; comparing, ordering and hashing are those
/// of the text, so a map keyed by `Jid` can be asked with a `&str` that is known to be prepared.
#[derive(Clone)]
pub struct Jid {
    text: Arc<str>,
    /// Where the domainpart starts: 0, or one past the `@`.
    domain: u16,
    /// Where the bare address ends: at the `/`, or at the end.
    bare: u16,
}

impl Jid {
    /// Reads and prepares an address.
    ///
    /// The first `/` starts the resourcepart, then the first `@` before it ends the localpart
    /// (RFC 7622 section 3.1).
    ///
    /// # Errors
    /// [`JidError`] names the first part that is wrong.
    pub fn parse(s: &str) -> Result<Jid, JidError> {
        match plain(s) {
            Some(jid) => Ok(jid),
            None => Jid::parse_any(s),
        }
    }

    fn parse_any(s: &str) -> Result<Jid, JidError> {
        let (rest, resource) = match s.split_once('/') {
            Some((rest, resource)) => (rest, Some(resource)),
            None => (s, None),
        };
        let (local, domain) = match rest.split_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, rest),
        };
        Jid::from_parts(local, domain, resource)
    }

    /// Puts an address together from unprepared parts.
    ///
    /// # Errors
    /// [`JidError`] names the first part that is wrong; an empty part is an error, not an absent
    /// one.
    pub fn from_parts(
        local: Option<&str>,
        domain: &str,
        resource: Option<&str>,
    ) -> Result<Jid, JidError> {
        let local = local.map(prepare_local).transpose()?;
        let domain = prepare_domain(domain)?;
        let resource = resource.map(prepare_resource).transpose()?;
        Ok(Jid::join(local.as_deref(), &domain, resource.as_deref()))
    }

    /// The localpart: the account's name at its host. Hosts and components have none.
    pub fn local(&self) -> Option<&str> {
        let end = usize::from(self.domain).checked_sub(1)?;
        self.text.get(..end)
    }

    /// The domainpart: a host name in U-labels, or an address literal.
    pub fn domain(&self) -> &str {
        self.text.get(usize::from(self.domain)..usize::from(self.bare)).unwrap_or_default()
    }

    /// The resourcepart: a session of the account, or an occupant of a room.
    pub fn resource(&self) -> Option<&str> {
        self.text.get(usize::from(self.bare) + 1..)
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address without its resourcepart, as text.
    pub fn bare_str(&self) -> &str {
        self.text.get(..usize::from(self.bare)).unwrap_or_default()
    }

    /// The address without its resourcepart. A bare address is only counted, not copied.
    pub fn bare(&self) -> Jid {
        if self.is_bare() {
            return self.clone();
        }
        Jid { text: Arc::from(self.bare_str()), ..*self }
    }

    /// Whether there is no resourcepart.
    pub fn is_bare(&self) -> bool {
        usize::from(self.bare) == self.text.len()
    }

    /// This address with `resource` (unprepared) in place of the resourcepart it may have.
    ///
    /// # Errors
    /// [`JidError`] when `resource` cannot be a resourcepart.
    pub fn with_resource(&self, resource: &str) -> Result<Jid, JidError> {
        let resource = prepare_resource(resource)?;
        let text = [self.bare_str(), "/", &resource].concat();
        Ok(Jid { text: text.into(), ..*self })
    }

    /// Joins prepared parts. No part is longer than [`PART_MAX`], so every offset fits.
    fn join(local: Option<&str>, domain: &str, resource: Option<&str>) -> Jid {
        let start = local.map_or(0, |local| local.len() + 1);
        let bare = start + domain.len();
        let mut text = String::with_capacity(bare + resource.map_or(0, |r| r.len() + 1));
        if let Some(local) = local {
            text.push_str(local);
            text.push('@');
        }
        text.push_str(domain);
        if let Some(resource) = resource {
            text.push('/');
            text.push_str(resource);
        }
        debug_assert!(bare <= 2 * PART_MAX + 1);
        Jid { text: text.into(), domain: start as u16, bare: bare as u16 }
    }
}

impl PartialEq for Jid {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Jid {}

impl PartialOrd for Jid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Jid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Jid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for Jid {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for Jid {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl FromStr for Jid {
    type Err = JidError;

    fn from_str(s: &str) -> Result<Self, JidError> {
        Jid::parse(s)
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jid({:?})", &*self.text)
    }
}

/// A part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Before the `@`.
    Local,
    /// The host.
    Domain,
    /// After the `/`.
    Resource,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Local => "localpart",
            Part::Domain => "domainpart",
            Part::Resource => "resourcepart",
        })
    }
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JidError {
    /// A separator with nothing behind or before it, or a part whose characters all vanish.
    #[error("{0} is empty")]
    Empty(Part),
    /// A character that the part must not have, also after mapping.
    #[error("`{c}` is not allowed in a {0}", c = .1.escape_debug())]
    Forbidden(Part, char),
    /// The domainpart starts with `[` and is not an IPv6 literal.
    #[error("domainpart is not an IPv6 address in brackets")]
    Ipv6,
    /// A label of the domainpart is empty, or not valid IDNA.
    #[error("domainpart is not a valid host name")]
    Label,
    /// Right-to-left characters mixed with others as RFC 3454 section 6 forbids.
    #[error("{0} mixes writing directions")]
    MixedDirections(Part),
    /// Over the 1023 bytes of RFC 7622, after preparation.
    #[error("{0} is longer than 1023 bytes")]
    TooLong(Part),
    /// Preparing the part a second time would change it, so it could name two accounts. No known
    /// text does; identity hangs on it, so it is checked all the same.
    #[error("{0} has no stable form")]
    Unstable(Part),
}

/// The fast path: an address in ASCII that is prepared already, as nearly all are. One look at each
/// byte, one allocation; everything else, wrong or merely unusual, is left to the long way.
fn plain(s: &str) -> Option<Jid> {
    let bytes = s.as_bytes();
    let bare = memchr(b'/', bytes).unwrap_or(bytes.len());
    let (head, resource) = bytes.split_at_checked(bare)?;
    let start = match memchr(b'@', head) {
        Some(at) => at + 1,
        None => 0,
    };
    let (local, host) = head.split_at_checked(start)?;
    let fits = |length: usize| (1..=PART_MAX).contains(&length);
    if let [local @ .., b'@'] = local
        && !(fits(local.len()) && local.iter().all(|&b| plain_node_byte(b)))
    {
        return None;
    }
    if let [b'/', resource @ ..] = resource
        && !(fits(resource.len()) && resource.iter().all(|b| matches!(b, b' '..=b'~')))
    {
        return None;
    }
    // Two dots are an empty label, two hyphens may be an A-label.
    let mut last = b'.';
    for &byte in host {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => {}
            b'.' | b'-' if last != byte => {}
            _ => return None,
        }
        last = byte;
    }
    if last == b'.' || !fits(host.len()) {
        return None;
    }
    Some(Jid { text: s.into(), domain: start as u16, bare: bare as u16 })
}

/// Printable ASCII that nodeprep leaves alone.
fn plain_node_byte(b: u8) -> bool {
    matches!(
        b,
        b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#'..=b'%' | b'('..=b'.' | b';' | b'=' | b'?'
            | b'['..=b'`' | b'{'..=b'~'
    )
}

fn prepare_local(s: &str) -> Result<Cow<'_, str>, JidError> {
    let part = Part::Local;
    check_raw(part, s)?;
    if s.is_ascii() {
        return match s.chars().find(|&c| c.is_ascii_control() || !node_character(c)) {
            Some(c) => Err(JidError::Forbidden(part, c)),
            None => Ok(lower(s)).and_then(|s| check_length(part, s)),
        };
    }
    // Before mapping: a young character may map to an old one (U+1F130 to `A`) and slip through.
    if let Some(c) = s.chars().find(|&c| tables::unassigned_code_point(c)) {
        return Err(JidError::Forbidden(part, c));
    }
    stable(part, s, |s| {
        let kept = s.chars().filter(|&c| !tables::commonly_mapped_to_nothing(c));
        let mapped: String = kept.flat_map(tables::case_fold_for_nfkc).nfkc().collect();
        let wrong =
            |&c: &char| !node_character(c) || prohibited(c) || tables::unassigned_code_point(c);
        match mapped.chars().find(wrong) {
            Some(c) => Err(JidError::Forbidden(part, c)),
            None => Ok(mapped),
        }
    })
}

fn prepare_resource(s: &str) -> Result<Cow<'_, str>, JidError> {
    let part = Part::Resource;
    check_raw(part, s)?;
    if s.is_ascii() {
        return match s.chars().find(char::is_ascii_control) {
            Some(c) => Err(JidError::Forbidden(part, c)),
            None => check_length(part, Cow::Borrowed(s)),
        };
    }
    stable(part, s, |s| {
        let kept = s.chars().filter(|&c| !tables::commonly_mapped_to_nothing(c));
        let spaced = kept.map(|c| if tables::non_ascii_space_character(c) { ' ' } else { c });
        let mapped: String = spaced.nfkc().collect();
        match mapped.chars().find(|&c| prohibited(c) || invisible(c)) {
            Some(c) => Err(JidError::Forbidden(part, c)),
            None => Ok(mapped),
        }
    })
}

fn prepare_domain(s: &str) -> Result<Cow<'_, str>, JidError> {
    let part = Part::Domain;
    check_raw(part, s)?;
    if let Some(literal) = s.strip_prefix('[') {
        let literal = literal.strip_suffix(']').ok_or(JidError::Ipv6)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| JidError::Ipv6)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let s = s.strip_suffix('.').unwrap_or(s);
    if let Some(c) = s.chars().find(|&c| c.is_ascii() && !host_character(c)) {
        return Err(JidError::Forbidden(part, c));
    }
    let ascii = lower(s);
    let host = if s.is_ascii() && !ascii.split('.').any(|label| label.starts_with("xn--")) {
        ascii
    } else {
        let (host, outcome) =
            Uts46::new().to_unicode(s.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow);
        outcome.map_err(|_| JidError::Label)?;
        // The mapping makes full stops, slashes and at signs out of other characters.
        let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
        if let Some(c) = host.chars().find(|&c| c.is_ascii() && !host_character(c)) {
            return Err(JidError::Forbidden(part, c));
        }
        Cow::Owned(host)
    };
    if host.is_empty() {
        return Err(JidError::Empty(part));
    }
    if host.split('.').any(str::is_empty) {
        return Err(JidError::Label);
    }
    check_length(part, host)
}

/// Runs `map` and insists that a second run changes nothing.
fn stable(
    part: Part,
    s: &str,
    map: impl Fn(&str) -> Result<String, JidError>,
) -> Result<Cow<'_, str>, JidError> {
    let once = map(s)?;
    if once.is_empty() {
        return Err(JidError::Empty(part));
    }
    if mixes_directions(&once) {
        return Err(JidError::MixedDirections(part));
    }
    if map(&once)? != once {
        return Err(JidError::Unstable(part));
    }
    check_length(part, Cow::Owned(once))
}

fn check_raw(part: Part, s: &str) -> Result<(), JidError> {
    match s.len() {
        0 => Err(JidError::Empty(part)),
        RAW_MAX.. => Err(JidError::TooLong(part)),
        _ => Ok(()),
    }
}

fn check_length(part: Part, s: Cow<'_, str>) -> Result<Cow<'_, str>, JidError> {
    if s.len() > PART_MAX { Err(JidError::TooLong(part)) } else { Ok(s) }
}

fn lower(s: &str) -> Cow<'_, str> {
    if s.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(s.to_ascii_lowercase())
    } else {
        Cow::Borrowed(s)
    }
}

/// Not one of the characters RFC 7622 section 3.3.1 takes out of the localpart.
fn node_character(c: char) -> bool {
    !matches!(c, ' ' | '"' | '&' | '\'' | '/' | ':' | '<' | '>' | '@')
}

/// Letters, digits, hyphen and underscore, and the dot between labels.
fn host_character(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// The prohibited output of nodeprep and resourceprep alike (RFC 6122 appendices A.5 and B.5).
fn prohibited(c: char) -> bool {
    tables::non_ascii_space_character(c)
        || tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
}

/// Younger than Unicode 3.2 and nothing a reader sees: a format character, a variation selector, or
/// not assigned to this day.
fn invisible(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse, Surrogate, Unassigned};
    if !tables::unassigned_code_point(c) {
        return false;
    }
    matches!(c, '\u{E0100}'..='\u{E01EF}')
        || matches!(c.general_category(), Control | Format | PrivateUse | Surrogate | Unassigned)
}

/// RFC 3454 section 6: right-to-left text starts and ends with it and has no left-to-right letter.
fn mixes_directions(s: &str) -> bool {
    if !s.contains(tables::bidi_r_or_al) {
        return false;
    }
    s.contains(tables::bidi_l)
        || !s.starts_with(tables::bidi_r_or_al)
        || !s.ends_with(tables::bidi_r_or_al)
}

#[cfg(test)]
#[path = "jid_tests.rs"]
mod tests;
