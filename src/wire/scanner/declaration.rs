//! What may come before a stream header: byte order mark and XML declaration (XML 1.0, 2.8 and
//! 4.3.3).

use super::ScanError;

use ScanError::{NotWellFormed, Restricted};

/// What a stream begins with; the offset is where to go on.
pub(crate) enum Prolog {
    /// An XML declaration, whose `<?xml` was read.
    Declaration(usize),
    /// Anything else, if nothing worse than white space before the root element.
    Root(usize),
    /// More is needed to tell.
    Unclear,
}

/// Looks for a byte order mark and the XML declaration at the start of the stream.
pub(crate) fn prolog(buf: &[u8]) -> Result<Prolog, ScanError> {
    const MARK: &[u8] = b"\xEF\xBB\xBF";
    const OPENING: &[u8] = b"<?xml";
    if matches!(buf.first(), Some(0 | 0xFE | 0xFF)) {
        return Err(ScanError::UnsupportedEncoding);
    }
    let start = if buf.starts_with(MARK) { MARK.len() } else { 0 };
    let rest = buf.get(start..).unwrap_or_default();
    if (start == 0 && MARK.starts_with(buf)) || OPENING.starts_with(rest) {
        return Ok(Prolog::Unclear);
    }
    if !rest.starts_with(OPENING) {
        return Ok(Prolog::Root(start));
    }
    match rest.get(OPENING.len()) {
        None => Ok(Prolog::Unclear),
        Some(b' ' | b'\t' | b'\r' | b'\n') => Ok(Prolog::Declaration(start + OPENING.len())),
        Some(_) => Err(Restricted("processing instruction")),
    }
}

/// Checks what stands between `<?xml` and `?>` (productions 23 to 26, 32, 80, 81).
pub(crate) fn check(inner: &[u8]) -> Result<(), ScanError> {
    let mut rest = std::str::from_utf8(inner).map_err(|_| DECLARATION)?;
    if pseudo_attribute(&mut rest, "version")?.ok_or(DECLARATION)? != "1.0" {
        return Err(NotWellFormed("XML version other than 1.0"));
    }
    let encoding = pseudo_attribute(&mut rest, "encoding")?;
    let standalone = pseudo_attribute(&mut rest, "standalone")?;
    if !rest.trim_start_matches(SPACES).is_empty()
        || !matches!(standalone, None | Some("yes" | "no"))
    {
        return Err(DECLARATION);
    }
    match encoding {
        Some(name) if !name.eq_ignore_ascii_case("UTF-8") => Err(ScanError::UnsupportedEncoding),
        _ => Ok(()),
    }
}

const DECLARATION: ScanError = NotWellFormed("malformed XML declaration");

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

/// Takes `name='value'` from the front of `rest`, if that is what comes next.
fn pseudo_attribute<'a>(rest: &mut &'a str, name: &str) -> Result<Option<&'a str>, ScanError> {
    let body = rest.trim_start_matches(SPACES);
    let Some(after) = body.strip_prefix(name) else {
        return Ok(None);
    };
    if body.len() == rest.len() {
        return Err(DECLARATION);
    }
    let after = after.trim_start_matches(SPACES).strip_prefix('=').ok_or(DECLARATION)?;
    let after = after.trim_start_matches(SPACES);
    let quote = if after.starts_with('"') { '"' } else { '\'' };
    let after = after.strip_prefix(quote).ok_or(DECLARATION)?;
    let (value, after) = after.split_once(quote).ok_or(DECLARATION)?;
    *rest = after;
    Ok(Some(value))
}
