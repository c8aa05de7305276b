//! The character level of XML 1.0 (fifth edition): strict UTF-8, `Char`, `Name`, references.
//!
//! Every function here can be called on a buffer that ends anywhere and says so when it must see
//! more; none looks further back than the position it is given. It does not know tags.

use std::borrow::Cow;

use crate::scanner::ScanError;

/// `S`, production 3.
pub(crate) const SPACE: u8 = 1;
/// ASCII that may stand in text without a closer look: not `<`, `&`, `]`.
pub(crate) const TEXT: u8 = 2;
/// ASCII that may stand in an attribute value in apostrophes: not `'`, `<`, `&`.
pub(crate) const APOS: u8 = 4;
/// ASCII that may stand in an attribute value in quotes: not `"`, `<`, `&`.
pub(crate) const QUOT: u8 = 8;
/// ASCII `NameChar`, the colon included.
pub(crate) const NAME: u8 = 16;
/// ASCII `NameStartChar`, without the colon: a leading colon is never a qualified name.
pub(crate) const START: u8 = 32;
/// ASCII `NameChar` without the colon.
pub(crate) const SIMPLE: u8 = 128;
/// ASCII that may stand in a CDATA section without a closer look: not `]`.
pub(crate) const CDATA: u8 = 64;

/// Bits of the classes above for each byte; bytes from 0x80 up are in none.
pub(crate) static CLASS: [u8; 256] = classes();

/// The longest reference looked at, `&` and `;` included. Leading zeros beyond it are refused.
const REFERENCE_MAX: usize = 16;

/// Replaces what XML 1.0 cannot carry and escapes the rest, for text and both kinds of quote.
///
/// Characters outside `Char` become U+FFFD. Carriage return, line feed and tab are written as
/// references, since a parser would otherwise normalise them away in an attribute value.
pub fn escape(text: &str) -> Cow<'_, str> {
    let special = |b: u8| b < 0x80 && CLASS[b as usize] & (APOS | QUOT) != (APOS | QUOT);
    // U+FFFE and U+FFFF, the only non-ASCII scalars outside `Char`, begin with 0xEF 0xBF.
    let wide = |s: &str| s.contains(['\u{fffe}', '\u{ffff}']);
    if !text.bytes().any(|b| special(b) || matches!(b, b'>' | b'\t' | b'\n' | b'\r' | 0xEF)) {
        return Cow::Borrowed(text);
    }
    if !text.bytes().any(|b| special(b) || matches!(b, b'>' | b'\t' | b'\n' | b'\r')) && !wide(text)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            c if is_char(c as u32) => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
    Cow::Owned(out)
}

/// The value of a validated attribute: references resolved, white space normalised (XML 3.3.3).
pub(crate) fn attribute_value(raw: &str) -> Cow<'_, str> {
    unescape(raw, true)
}

/// The value of a validated run of text: references resolved, line ends normalised (XML 2.11).
pub(crate) fn text_value(raw: &str) -> Cow<'_, str> {
    unescape(raw, false)
}

/// Line ends normalised only: the content of a CDATA section.
pub(crate) fn cdata_value(raw: &str) -> Cow<'_, str> {
    if raw.contains('\r') {
        Cow::Owned(raw.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(raw)
    }
}

/// First position at or after `pos` that is not in `class`; the end of `buf` if all are.
#[inline]
pub(crate) fn skip(buf: &[u8], pos: usize, class: u8) -> usize {
    let rest = buf.get(pos..).unwrap_or_default();
    match rest.iter().position(|&b| CLASS[b as usize] & class == 0) {
        Some(n) => pos + n,
        None => buf.len(),
    }
}

/// Like [`skip`] for [`TEXT`], [`APOS`] or [`QUOT`], but eight bytes at a time. `stop` is what the
/// class excludes besides `<` and `&`.
#[inline]
pub(crate) fn skip_plain(buf: &[u8], mut pos: usize, class: u8, stop: u8) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The lowest set bit is exact; a borrow can only set bits above one that is set rightly.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let equal = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    while let Some(chunk) = buf.get(pos..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let stops = equal(word, b'<') | equal(word, b'&') | equal(word, stop);
        let found = (stops | below(word, 0x20) | word) & HIGH;
        if found == 0 {
            pos += 8;
            continue;
        }
        pos += found.trailing_zeros() as usize / 8;
        match buf.get(pos) {
            Some(b'\t' | b'\n' | b'\r') => pos += 1,
            _ => return pos,
        }
    }
    skip(buf, pos, class)
}

/// Goes over characters of [`TEXT`], [`APOS`] or [`QUOT`], and over those beyond ASCII, validating
/// them. Stops at an ASCII byte outside the class, at the end, or at the first byte of a character
/// that is not complete.
#[inline]
pub(crate) fn run(buf: &[u8], mut pos: usize, class: u8) -> Result<usize, ScanError> {
    loop {
        pos = match class {
            APOS => skip_plain(buf, pos, APOS, b'\''),
            QUOT => skip_plain(buf, pos, QUOT, b'"'),
            TEXT => skip_plain(buf, pos, TEXT, b']'),
            _ => skip(buf, pos, class),
        };
        match buf.get(pos) {
            Some(&b) if b >= 0x80 => {}
            _ => return Ok(pos),
        }
        // What is certain after a look at the first byte: most of the world's writing.
        loop {
            pos += match buf.get(pos..).unwrap_or_default() {
                [0xC2..=0xDF, 0x80..=0xBF, ..] => 2,
                [0xE1..=0xEC | 0xEE, 0x80..=0xBF, 0x80..=0xBF, ..] => 3,
                _ => break,
            };
        }
        match buf.get(pos) {
            Some(&b) if b >= 0x80 => {}
            _ => continue,
        }
        match decode(buf.get(pos..).unwrap_or_default())? {
            Some((c, len)) if is_char(c) => pos += len,
            Some(_) => return Err(ScanError::NotWellFormed("character not allowed in XML")),
            None => return Ok(pos),
        }
    }
}

/// Reads on in a name that began at `mark`. `true`: the byte at the position returned ends it.
#[inline]
pub(crate) fn name(buf: &[u8], mark: usize, pos: usize) -> Result<(usize, bool), ScanError> {
    const BAD: ScanError = ScanError::NotWellFormed("character not allowed in a name");
    let mut pos = pos;
    if pos == mark {
        match buf.get(pos) {
            None => return Ok((pos, false)),
            Some(&b) if b < 0x80 => {
                if CLASS[b as usize] & START == 0 {
                    return Err(ScanError::NotWellFormed("name expected"));
                }
                pos += 1;
            }
            Some(_) => match decode(buf.get(pos..).unwrap_or_default())? {
                None => return Ok((pos, false)),
                Some((c, len)) if is_name_start(c) => pos += len,
                Some(_) => return Err(BAD),
            },
        }
    }
    loop {
        pos = skip(buf, pos, NAME);
        match buf.get(pos) {
            None => return Ok((pos, false)),
            Some(&b) if b < 0x80 => return Ok((pos, true)),
            Some(_) => match decode(buf.get(pos..).unwrap_or_default())? {
                None => return Ok((pos, false)),
                Some((c, len)) if is_name_char(c) => pos += len,
                Some(_) => return Err(BAD),
            },
        }
    }
}

/// Whether `local`, the part of a name after its colon, begins like a name (`NCName`).
pub(crate) fn starts_name(local: &[u8]) -> bool {
    match local.first() {
        None => false,
        Some(&b) if b < 0x80 => CLASS[b as usize] & START != 0,
        Some(_) => matches!(decode(local), Ok(Some((c, _))) if is_name_start(c)),
    }
}

/// Checks the reference whose `&` is at `pos`; the position behind its `;`, or `None` for more.
pub(crate) fn reference(buf: &[u8], pos: usize) -> Result<Option<usize>, ScanError> {
    const BAD: ScanError = ScanError::NotWellFormed("malformed reference");
    let body = buf.get(pos + 1..).unwrap_or_default();
    let window = body.get(..REFERENCE_MAX).unwrap_or(body);
    let numeric = window.first() == Some(&b'#');
    let hex = numeric && window.get(1) == Some(&b'x');
    let digits = if hex { 2 } else { usize::from(numeric) };
    for (i, &b) in window.iter().enumerate().skip(digits) {
        let fits = match (numeric, hex) {
            (true, true) => b.is_ascii_hexdigit(),
            (true, false) => b.is_ascii_digit(),
            _ => b.is_ascii_alphanumeric(),
        };
        if fits {
            continue;
        }
        if b != b';' || i == digits {
            return Err(BAD);
        }
        let inner = window.get(..i).and_then(|s| std::str::from_utf8(s).ok()).unwrap_or_default();
        return match resolve(inner) {
            Some(_) => Ok(Some(pos + 2 + i)),
            None if numeric => Err(ScanError::NotWellFormed("reference to a forbidden character")),
            None => Err(ScanError::Restricted("entity other than the predefined five")),
        };
    }
    match (window.len() < REFERENCE_MAX, numeric) {
        (true, _) => Ok(None),
        (false, true) => Err(ScanError::NotWellFormed("character reference too long")),
        (false, false) => Err(ScanError::Restricted("entity other than the predefined five")),
    }
}

/// Decodes the first character of `bytes`, which begins at or above 0x80. `None`: more is needed.
/// Refuses overlong forms, surrogates and what is beyond U+10FFFF as soon as it shows.
#[inline]
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(u32, usize)>, ScanError> {
    const BAD: ScanError = ScanError::NotWellFormed("not UTF-8");
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let (len, low, high) = match first {
        0xC2..=0xDF => (2, 0x80, 0xBF),
        0xE0 => (3, 0xA0, 0xBF),
        0xE1..=0xEC | 0xEE | 0xEF => (3, 0x80, 0xBF),
        0xED => (3, 0x80, 0x9F),
        0xF0 => (4, 0x90, 0xBF),
        0xF1..=0xF3 => (4, 0x80, 0xBF),
        0xF4 => (4, 0x80, 0x8F),
        _ => return Err(BAD),
    };
    let mut code = u32::from(first) & (0x7F >> len);
    for i in 1..len {
        let Some(&b) = bytes.get(i) else {
            return Ok(None);
        };
        let fits = if i == 1 { (low..=high).contains(&b) } else { b & 0xC0 == 0x80 };
        if !fits {
            return Err(BAD);
        }
        code = code << 6 | u32::from(b & 0x3F);
    }
    Ok(Some((code, len)))
}

/// `Char`, production 2.
pub(crate) fn is_char(c: u32) -> bool {
    matches!(c, 0x9 | 0xA | 0xD | 0x20..=0xD7FF | 0xE000..=0xFFFD | 0x10000..=0x10FFFF)
}

/// `NameStartChar`, production 4, beyond ASCII.
fn is_name_start(c: u32) -> bool {
    matches!(c,
        0xC0..=0xD6 | 0xD8..=0xF6 | 0xF8..=0x2FF | 0x370..=0x37D | 0x37F..=0x1FFF
        | 0x200C..=0x200D | 0x2070..=0x218F | 0x2C00..=0x2FEF | 0x3001..=0xD7FF
        | 0xF900..=0xFDCF | 0xFDF0..=0xFFFD | 0x10000..=0xEFFFF)
}

/// `NameChar`, production 4a, beyond ASCII.
fn is_name_char(c: u32) -> bool {
    is_name_start(c) || matches!(c, 0xB7 | 0x300..=0x36F | 0x203F..=0x2040)
}

/// What a reference stands for, given what is between `&` and `;`.
fn resolve(inner: &str) -> Option<char> {
    let code = match inner {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "apos" => return Some('\''),
        "quot" => return Some('"'),
        _ => match (inner.strip_prefix("#x"), inner.strip_prefix('#')) {
            (Some(hex), _) => u32::from_str_radix(hex, 16).ok()?,
            (None, Some(decimal)) => decimal.parse().ok()?,
            (None, None) => return None,
        },
    };
    is_char(code).then(|| char::from_u32(code)).flatten()
}

fn unescape(raw: &str, attribute: bool) -> Cow<'_, str> {
    let plain = |b: u8| match b {
        b'&' | b'\r' => false,
        b'\t' | b'\n' => !attribute,
        _ => true,
    };
    if raw.bytes().all(plain) {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.bytes().position(|b| !plain(b)) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        rest = match from.strip_prefix('&') {
            Some(body) => {
                let (inner, after) = body.split_once(';').unwrap_or((body, ""));
                out.extend(resolve(inner));
                after
            }
            None => {
                out.push(if attribute { ' ' } else { '\n' });
                let after = from.strip_prefix("\r\n");
                after.or_else(|| from.get(1..)).unwrap_or_default()
            }
        };
    }
    out.push_str(rest);
    Cow::Owned(out)
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 0x80 {
        let b = i as u8;
        let space = matches!(b, b' ' | b'\t' | b'\n' | b'\r');
        let start = b.is_ascii_alphabetic() || b == b'_';
        let mut class = 0;
        if space {
            class |= SPACE;
        }
        if start {
            class |= START;
        }
        if start || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':') {
            class |= NAME;
            if b != b':' {
                class |= SIMPLE;
            }
        }
        // 0x7F is in `Char`.
        if space || b >= 0x20 {
            if !matches!(b, b'<' | b'&' | b']') {
                class |= TEXT;
            }
            if !matches!(b, b'<' | b'&' | b'\'') {
                class |= APOS;
            }
            if !matches!(b, b'<' | b'&' | b'"') {
                class |= QUOT;
            }
            if b != b']' {
                class |= CDATA;
            }
        }
        table[i] = class;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_agrees_with_the_standard_library_on_every_short_sequence() {
        for first in 0x80..=0xFF_u8 {
            for second in 0..=0xFF_u8 {
                for rest in [[0x80, 0x80], [0xBF, 0xBF], [0x7F, 0x80], [0x80, 0xC0]] {
                    let bytes = [first, second, rest[0], rest[1]];
                    let expected = (1..=4).find_map(|len| {
                        let text = str::from_utf8(bytes.get(..len)?).ok()?;
                        Some((text.chars().next()? as u32, len))
                    });
                    match decode(&bytes) {
                        Ok(Some(found)) => assert_eq!(Some(found), expected, "{bytes:x?}"),
                        Ok(None) => panic!("{bytes:x?} is long enough"),
                        Err(_) => assert_eq!(expected, None, "{bytes:x?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn a_character_is_awaited_or_refused_at_each_byte() {
        assert!(matches!(decode(b"\xF0\x9F\x98"), Ok(None)));
        assert!(decode(b"\xED\xA0").is_err());
        assert!(matches!(decode(b"\xED"), Ok(None)));
    }

    #[test]
    fn values_are_resolved_and_normalised() {
        assert_eq!(attribute_value("a\tb\r\nc\rd&#10;&#x41;&lt;"), "a b c d\nA<");
        assert_eq!(text_value("a\tb\r\nc\rd&#13;"), "a\tb\nc\nd\r");
        assert_eq!(cdata_value("&lt;\r\n"), "&lt;\n");
    }
}
