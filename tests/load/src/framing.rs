//! Cuts the bytes of a server's stream into top-level elements (RFC 6120, section 4).
//!
//! It counts tags and nothing more: it does not validate, and it shares no code with Usher's own
//! scanner, so that a fault there cannot hide here.

use std::ops::Range;

use anyhow::{Result, bail};
use memchr::{memchr, memchr3, memmem};

/// The largest element a server may send before the generator gives up on it, in bytes.
const LIMIT: usize = 1 << 20;

/// What was cut from the stream; ranges index [`Framer::bytes`] until the next call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The stream header.
    Open(Range<usize>),
    /// A complete child of the stream root.
    Element(Range<usize>),
    /// The end tag of the stream.
    Close,
}

/// A resumable cutter of one stream.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Where the element being read began.
    start: usize,
    /// Everything before is counted.
    position: usize,
    depth: u32,
}

impl Framer {
    /// The buffer that ranges of pieces index.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Where to append what the socket gives. Finished elements are forgotten first, so ranges
    /// given before are void.
    pub fn room(&mut self) -> &mut Vec<u8> {
        let keep = if self.depth > 1 { self.start } else { self.position };
        if keep > 0 {
            self.buffer.drain(..keep);
            self.start = self.start.saturating_sub(keep);
            self.position -= keep;
        }
        &mut self.buffer
    }

    /// Forgets the old stream after SASL (RFC 6120, section 6.3.2).
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// The next piece, or `None` when more bytes are wanted. Fails on a DTD, on an end tag without
    /// a start tag and on an element beyond [`LIMIT`].
    pub fn cut(&mut self) -> Result<Option<Piece>> {
        loop {
            let rest = &self.buffer[self.position..];
            let Some(skip) = memchr(b'<', rest) else {
                self.position = self.buffer.len();
                return self.more();
            };
            self.position += skip;
            let Some(length) = markup(&self.buffer[self.position..])? else {
                return self.more();
            };
            let (begin, end) = (self.position, self.position + length);
            self.position = end;
            let tag = &self.buffer[begin..end];
            if tag.starts_with(b"<?") || tag.starts_with(b"<!") {
                continue;
            }
            if tag.starts_with(b"</") {
                match self.depth {
                    0 => bail!("the server closed an element that it had not opened"),
                    1 => {
                        self.depth = 0;
                        return Ok(Some(Piece::Close));
                    }
                    2 => {
                        self.depth = 1;
                        return Ok(Some(Piece::Element(self.start..end)));
                    }
                    _ => self.depth -= 1,
                }
                continue;
            }
            let empty = tag.ends_with(b"/>");
            match (self.depth, empty) {
                (0, true) => bail!("the server sent an empty stream"),
                (0, false) => {
                    self.depth = 1;
                    return Ok(Some(Piece::Open(begin..end)));
                }
                (1, true) => return Ok(Some(Piece::Element(begin..end))),
                (1, false) => {
                    self.start = begin;
                    self.depth = 2;
                }
                (_, true) => {}
                (_, false) => self.depth += 1,
            }
        }
    }

    fn more(&self) -> Result<Option<Piece>> {
        let begun = if self.depth > 1 { self.start } else { self.position };
        if self.buffer.len() - begun > LIMIT {
            bail!("the server sent an element of more than {LIMIT} bytes");
        }
        Ok(None)
    }
}

/// The value of an attribute of an element's first tag, as written (references are not resolved).
pub fn attribute<'a>(element: &'a [u8], name: &str) -> Option<&'a str> {
    let mut rest = &element[..tag_end(element)?];
    loop {
        let at = memchr(b'=', rest)?;
        let quote = *rest.get(at + 1)?;
        let value = &rest[at + 2..];
        let end = memchr(quote, value)?;
        let key = rest[..at].rsplit(|b| b.is_ascii_whitespace()).next()?;
        if key == name.as_bytes() {
            return std::str::from_utf8(&value[..end]).ok();
        }
        rest = &value[end + 1..];
    }
}

/// The text of the first descendant written `<name>`, as written.
pub fn text<'a>(element: &'a [u8], name: &str) -> Option<&'a str> {
    let open = memmem::find(element, format!("<{name}>").as_bytes())?;
    let rest = &element[open + name.len() + 2..];
    std::str::from_utf8(&rest[..memchr(b'<', rest)?]).ok()
}

/// The length of the markup at the start of `bytes`, or `None` when its end has not come yet.
fn markup(bytes: &[u8]) -> Result<Option<usize>> {
    const CDATA: &[u8] = b"<![CDATA[";
    let end = |needle: &[u8]| memmem::find(bytes, needle).map(|at| at + needle.len());
    if bytes.starts_with(b"<?") {
        return Ok(end(b"?>"));
    }
    if bytes.starts_with(b"<!") {
        if bytes.starts_with(CDATA) {
            return Ok(end(b"]]>"));
        }
        if CDATA.starts_with(bytes) {
            return Ok(None);
        }
        bail!("the server sent a comment or a DTD");
    }
    Ok(tag_end(bytes))
}

/// The length of the tag at the start of `bytes`: up to the `>` that is not within quotes.
fn tag_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr3(b'>', b'"', b'\'', &bytes[at..])?;
        match bytes[at] {
            b'>' => return Some(at + 1),
            quote => at += 2 + memchr(quote, &bytes[at + 1..])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALOGUE: &str = "<?xml version='1.0'?><stream:stream id='>' version='1.0'>\
        <stream:features><a/><b>c</b></stream:features>\n <r/>\
        <message from=\"a'>b\" id='7'><body>x <![CDATA[</body>]]> y</body></message>\
        </stream:stream>";

    fn pieces(chunk: usize) -> Vec<String> {
        let mut framer = Framer::default();
        let mut seen = Vec::new();
        for bytes in DIALOGUE.as_bytes().chunks(chunk) {
            framer.room().extend_from_slice(bytes);
            while let Some(piece) = framer.cut().unwrap() {
                seen.push(match piece {
                    Piece::Open(range) | Piece::Element(range) => {
                        String::from_utf8(framer.bytes()[range].to_vec()).unwrap()
                    }
                    Piece::Close => "close".to_owned(),
                });
            }
        }
        seen
    }

    #[test]
    fn any_chunking_gives_the_same_pieces() {
        let whole = pieces(DIALOGUE.len());
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[1], "<stream:features><a/><b>c</b></stream:features>");
        assert_eq!(whole[2], "<r/>");
        assert!(whole[3].starts_with("<message") && whole[3].ends_with("</message>"));
        assert_eq!(whole[4], "close");
        for chunk in 1..DIALOGUE.len() {
            assert_eq!(pieces(chunk), whole, "chunks of {chunk}");
        }
    }

    #[test]
    fn a_dtd_and_a_stray_end_tag_are_refused() {
        for bad in ["<!DOCTYPE x>", "</x>"] {
            let mut framer = Framer::default();
            framer.room().extend_from_slice(bad.as_bytes());
            assert!(framer.cut().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_endless_element_is_refused() {
        let mut framer = Framer::default();
        framer.room().extend_from_slice(b"<s><a>");
        framer.cut().unwrap();
        framer.room().resize(LIMIT + 10, b'x');
        assert!(framer.cut().is_err());
    }

    #[test]
    fn attributes_and_text_are_found() {
        let element = b"<iq from=\"a@b/it's\" type = 'x' id='i1'><q id='no'/><jid>u@h/r</jid></iq>";
        assert_eq!(attribute(element, "from"), Some("a@b/it's"));
        assert_eq!(attribute(b"<iq type='result' id='i1'>", "id"), Some("i1"));
        assert_eq!(attribute(element, "to"), None);
        assert_eq!(text(element, "jid"), Some("u@h/r"));
        assert_eq!(text(element, "none"), None);
    }
}
