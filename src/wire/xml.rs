//! Writing XML: a builder that can only write well-formed elements, and the escaping it uses.
//!
//! It does not check namespaces, and it trusts two things: element and attribute names, which are
//! literals of this program, and what is passed to [`Xml::raw`].

use bytes::Bytes;
use smallvec::SmallVec;

pub use crate::chars::escape;

/// Writes elements one after the other, each call in document order.
///
/// ```
/// let mut xml = wire::Xml::new();
/// xml.open("iq").attr("type", "result").open("ping").ns("urn:xmpp:ping").close();
/// assert_eq!(xml.finish(), "<iq type='result'><ping xmlns='urn:xmpp:ping'/></iq>");
/// ```
#[derive(Debug, Default)]
pub struct Xml {
    out: Vec<u8>,
    open: SmallVec<[&'static str; 8]>,
    /// The start tag of the innermost element still takes attributes.
    in_tag: bool,
}

impl Xml {
    /// An empty writer.
    pub fn new() -> Self {
        Self { out: Vec::with_capacity(256), ..Self::default() }
    }

    /// Opens an element inside the innermost open one.
    pub fn open(&mut self, name: &'static str) -> &mut Self {
        self.content();
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        self.open.push(name);
        self.in_tag = true;
        self
    }

    /// Declares the default namespace of the element just opened.
    pub fn ns(&mut self, ns: &str) -> &mut Self {
        self.attr("xmlns", ns)
    }

    /// Adds an attribute to the element just opened. Without one, or after content, it does
    /// nothing.
    pub fn attr(&mut self, name: &'static str, value: &str) -> &mut Self {
        debug_assert!(self.in_tag, "attribute `{name}` outside a start tag");
        if self.in_tag {
            self.out.push(b' ');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"='");
            self.out.extend_from_slice(escape(value).as_bytes());
            self.out.push(b'\'');
        }
        self
    }

    /// Adds an attribute if there is a value.
    pub fn attr_opt<S: AsRef<str>>(&mut self, name: &'static str, value: &Option<S>) -> &mut Self {
        match value {
            Some(value) => self.attr(name, value.as_ref()),
            None => self,
        }
    }

    /// Adds text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.content();
            self.out.extend_from_slice(escape(text).as_bytes());
        }
        self
    }

    /// Adds an element that holds only text.
    pub fn leaf(&mut self, name: &'static str, text: &str) -> &mut Self {
        self.open(name).text(text).close()
    }

    /// Adds bytes that are already well-formed content.
    pub fn raw(&mut self, xml: &[u8]) -> &mut Self {
        if !xml.is_empty() {
            self.content();
            self.out.extend_from_slice(xml);
        }
        self
    }

    /// Closes the innermost open element.
    pub fn close(&mut self) -> &mut Self {
        let Some(name) = self.open.pop() else {
            return self;
        };
        if self.in_tag {
            self.in_tag = false;
            self.out.extend_from_slice(b"/>");
        } else {
            self.out.extend_from_slice(b"</");
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b'>');
        }
        self
    }

    /// Closes all elements still open and returns what was written.
    pub fn finish(mut self) -> Bytes {
        while !self.open.is_empty() {
            self.close();
        }
        self.out.into()
    }

    /// Ends the start tag in progress, if any.
    fn content(&mut self) {
        if self.in_tag {
            self.in_tag = false;
            self.out.push(b'>');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_nest_and_close_themselves() {
        let mut xml = Xml::new();
        xml.open("a").attr("x", "1").attr_opt("y", &None::<&str>).attr_opt("z", &Some("2"));
        xml.leaf("b", "t").open("c").raw(b"<d/>").text("");
        assert_eq!(xml.finish(), "<a x='1' z='2'><b>t</b><c><d/></c></a>");
    }

    #[test]
    fn values_are_escaped() {
        assert_eq!(escape("plain é"), "plain é");
        assert!(matches!(escape("plain"), std::borrow::Cow::Borrowed(_)));
        assert!(matches!(escape("\u{fffd}"), std::borrow::Cow::Borrowed(_)));
        assert_eq!(escape("<&>'\""), "&lt;&amp;&gt;&apos;&quot;");
        assert_eq!(escape("a\tb\nc\rd"), "a&#9;b&#10;c&#13;d");
        assert_eq!(
            escape("\0\u{1f}\u{fffe}\u{ffff}\u{7f}"),
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{7f}"
        );
    }

    #[test]
    fn an_empty_text_leaves_an_empty_element() {
        let mut xml = Xml::new();
        xml.leaf("a", "");
        assert_eq!(xml.finish(), "<a/>");
    }
}
