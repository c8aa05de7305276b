//! The tests' own reading of XML, so that what the server writes is not judged by the server's own
//! parser. It takes a stream apart as a client sees it, and compares elements as canonical XML:
//! quotes, order of attributes and choice of prefixes do not count, everything else does.
//!
//! It knows what a server may send and nothing more: no DTD, no comments, no processing
//! instructions. Whatever it does not know is an error, which is what a test wants.

use std::collections::{BTreeMap, HashMap};

/// What comes next in a stream.
#[derive(Debug)]
pub enum Item {
    /// The stream header.
    Open(Tree),
    /// A first-level element.
    Element(Tree),
    /// The end of the stream.
    End,
}

/// An element. As a pattern, its texts and values are globs: `*` stands for anything, `${name}` for
/// the value that was first seen there.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub ns: String,
    pub local: String,
    /// By namespace and local name.
    pub attrs: BTreeMap<(String, String), String>,
    /// A pattern with `…` among its attributes: there may be others.
    pub more: bool,
    pub content: Vec<Node>,
}

/// Content of an element.
#[derive(Clone, Debug)]
pub enum Node {
    Element(Tree),
    Text(String),
    /// `…` in a pattern: any content, or none.
    Any,
}

/// Names that a script gave to what it saw.
pub type Vars = HashMap<String, String>;

const STREAMS: &str = "http://etherx.jabber.org/streams";
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// Why reading stopped.
enum Stop {
    /// The input ends too early.
    Incomplete,
    /// It is not what a stream may contain.
    Bad(String),
}

type Read<T> = Result<T, Stop>;

/// The next item of a stream and where it ends; none if it is not complete yet.
pub fn next(input: &str) -> Result<Option<(Item, usize)>, String> {
    let mut reader = Reader { input, at: 0, pattern: false };
    match reader.item() {
        Ok(item) => Ok(Some((item, reader.at))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Bad(why)) => Err(why),
    }
}

/// Reads a pattern: one element, or the start tag of a stream.
pub fn pattern(input: &str) -> Result<Item, String> {
    let mut reader = Reader { input: input.trim(), at: 0, pattern: true };
    match reader.item() {
        Ok(item) if reader.at == reader.input.len() => Ok(item),
        Ok(_) => Err(format!("more than one element in the pattern `{input}`")),
        Err(Stop::Incomplete) => Err(format!("incomplete pattern `{input}`")),
        Err(Stop::Bad(why)) => Err(format!("{why} in the pattern `{input}`")),
    }
}

/// Namespaces in scope, innermost last.
type Scope = Vec<(String, String)>;

struct Reader<'a> {
    input: &'a str,
    at: usize,
    pattern: bool,
}

struct Tag {
    name: String,
    tree: Tree,
    empty: bool,
    scope: Scope,
}

impl<'a> Reader<'a> {
    fn item(&mut self) -> Read<Item> {
        self.space();
        if self.rest().starts_with("<?xml ") {
            self.until("?>")?;
            self.space();
        }
        let base = vec![
            (String::new(), "jabber:client".to_owned()),
            ("stream".to_owned(), STREAMS.to_owned()),
            ("xml".to_owned(), XML.to_owned()),
        ];
        if self.eat("</")? {
            return match self.until(">")?.trim_end() {
                "stream:stream" => Ok(Item::End),
                other => bad(format!("`</{other}>` closes nothing")),
            };
        }
        let tag = self.tag(base)?;
        if tag.tree.ns == STREAMS && tag.tree.local == "stream" {
            return Ok(Item::Open(tag.tree));
        }
        Ok(Item::Element(self.element(tag)?))
    }

    /// A start tag.
    fn tag(&mut self, mut scope: Scope) -> Read<Tag> {
        if !self.eat("<")? {
            return bad(format!("`<` expected at `{}`", start(self.rest())));
        }
        let name = self.name()?;
        let (mut raw, mut more) = (Vec::new(), false);
        let empty = loop {
            let spaced = self.space();
            if self.eat("/>")? {
                break true;
            }
            if self.eat(">")? {
                break false;
            }
            if !spaced {
                return bad(format!("space expected at `{}`", start(self.rest())));
            }
            if self.pattern && self.eat("…")? {
                more = true;
                continue;
            }
            let attr = self.name()?;
            if !self.eat("=")? {
                return bad(format!("attribute `{attr}` has no value"));
            }
            let quote = if self.eat("'")? { "'" } else { "\"" };
            if quote == "\"" && !self.eat("\"")? {
                return bad(format!("attribute `{attr}` has no quotes"));
            }
            let value = self.until(quote)?;
            if value.contains('<') {
                return bad(format!("`<` in attribute `{attr}`"));
            }
            raw.push((attr, unescape(value)?));
        };
        for (attr, value) in &raw {
            match attr.strip_prefix("xmlns:") {
                Some(prefix) => scope.push((prefix.to_owned(), value.clone())),
                None if attr == "xmlns" => scope.push((String::new(), value.clone())),
                None => {}
            }
        }
        let mut attrs = BTreeMap::new();
        for (attr, value) in raw {
            if attr == "xmlns" || attr.starts_with("xmlns:") {
                continue;
            }
            let key = match attr.split_once(':') {
                Some((prefix, local)) => (resolve(&scope, prefix)?, local.to_owned()),
                None => (String::new(), attr.clone()),
            };
            if attrs.insert(key, value).is_some() {
                return bad(format!("attribute `{attr}` twice"));
            }
        }
        let (prefix, local) = name.split_once(':').unwrap_or(("", &name));
        let ns = resolve(&scope, prefix)?;
        let tree = Tree { ns, local: local.to_owned(), attrs, more, content: Vec::new() };
        Ok(Tag { name, tree, empty, scope })
    }

    /// The rest of an element behind its start tag.
    fn element(&mut self, tag: Tag) -> Read<Tree> {
        let Tag { name, mut tree, empty, scope } = tag;
        if empty {
            return Ok(tree);
        }
        let mut text = String::new();
        loop {
            if self.eat("</")? {
                if self.until(">")?.trim_end() != name {
                    return bad(format!("`{name}` is not closed"));
                }
                flush(&mut tree, &mut text);
                return Ok(tree);
            }
            if self.eat("<![CDATA[")? {
                text.push_str(self.until("]]>")?);
            } else if self.rest().starts_with('<') {
                flush(&mut tree, &mut text);
                let child = self.tag(scope.clone())?;
                let child = self.element(child)?;
                tree.content.push(Node::Element(child));
            } else if self.pattern && self.eat("…")? {
                flush(&mut tree, &mut text);
                tree.content.push(Node::Any);
            } else {
                let stop = |c: char| c == '<' || (self.pattern && c == '…');
                let end = self.rest().find(stop).ok_or(Stop::Incomplete)?;
                text.push_str(&unescape(&self.rest()[..end])?);
                self.at += end;
            }
        }
    }

    fn name(&mut self) -> Read<String> {
        let stop = |c: char| c.is_whitespace() || matches!(c, '=' | '/' | '>' | '<' | '\'' | '"');
        let end = self.rest().find(stop).ok_or(Stop::Incomplete)?;
        if end == 0 {
            return bad(format!("a name expected at `{}`", start(self.rest())));
        }
        let name = self.rest()[..end].to_owned();
        self.at += end;
        Ok(name)
    }

    fn rest(&self) -> &'a str {
        &self.input[self.at..]
    }

    fn space(&mut self) -> bool {
        let before = self.at;
        self.at = self.input.len() - self.rest().trim_start().len();
        self.at > before
    }

    /// Takes `text` if it is what comes next.
    fn eat(&mut self, text: &str) -> Read<bool> {
        let rest = self.rest();
        if rest.starts_with(text) {
            self.at += text.len();
            return Ok(true);
        }
        // It could still become that.
        if text.starts_with(rest) { Err(Stop::Incomplete) } else { Ok(false) }
    }

    /// Takes everything before `end`, and `end`.
    fn until(&mut self, end: &str) -> Read<&'a str> {
        let rest = self.rest();
        let found = rest.find(end).ok_or(Stop::Incomplete)?;
        self.at += found + end.len();
        Ok(&rest[..found])
    }
}

fn bad<T>(why: String) -> Read<T> {
    Err(Stop::Bad(why))
}

fn start(text: &str) -> String {
    text.chars().take(30).collect()
}

fn flush(tree: &mut Tree, text: &mut String) {
    if !text.is_empty() {
        tree.content.push(Node::Text(std::mem::take(text)));
    }
}

fn resolve(scope: &Scope, prefix: &str) -> Read<String> {
    match scope.iter().rev().find(|(known, _)| known == prefix) {
        Some((_, uri)) => Ok(uri.clone()),
        None => bad(format!("prefix `{prefix}` is not declared")),
    }
}

fn unescape(text: &str) -> Read<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find(';') else { return bad("`&` without `;`".into()) };
        let name = &rest[at + 1..at + end];
        let number = name.strip_prefix("#x").map(|hex| u32::from_str_radix(hex, 16).ok());
        let number = number.or_else(|| name.strip_prefix('#').map(|dec| dec.parse().ok()));
        let found = match (name, number) {
            ("lt", _) => Some('<'),
            ("gt", _) => Some('>'),
            ("amp", _) => Some('&'),
            ("apos", _) => Some('\''),
            ("quot", _) => Some('"'),
            (_, Some(code)) => code.and_then(char::from_u32),
            (_, None) => None,
        };
        match found {
            Some(c) => out.push(c),
            None => return bad(format!("entity `&{name};`")),
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Compares; on success the names that the pattern gives are in `vars`.
pub fn matches(pattern: &Tree, got: &Tree, vars: &mut Vars) -> Result<(), String> {
    let name = &pattern.local;
    if (&pattern.ns, name) != (&got.ns, &got.local) {
        let (ns, local) = (&got.ns, &got.local);
        return Err(format!("<{local} xmlns='{ns}'> instead of <{name} xmlns='{}'>", pattern.ns));
    }
    for (key, wanted) in &pattern.attrs {
        let Some(value) = got.attrs.get(key) else {
            return Err(format!("<{name}> has no attribute `{}`", key.1));
        };
        if !glob(wanted, value, vars) {
            return Err(format!("<{name} {}='{value}'> is not `{wanted}`", key.1));
        }
    }
    if let Some(extra) = got.attrs.keys().find(|key| !pattern.attrs.contains_key(key))
        && !pattern.more
    {
        return Err(format!("<{name}> has an attribute `{}` too many", extra.1));
    }
    contents(&pattern.content, &got.content, vars).map_err(|why| format!("in <{name}>: {why}"))
}

fn contents(pattern: &[Node], got: &[Node], vars: &mut Vars) -> Result<(), String> {
    match (pattern.split_first(), got.split_first()) {
        (None, None) => Ok(()),
        (None, Some((Node::Element(extra), _))) => Err(format!("<{}> too many", extra.local)),
        (None, Some((node, _))) => Err(format!("{node:?} too much")),
        (Some((Node::Any, rest)), _) => {
            let mut why = String::new();
            for skip in 0..=got.len() {
                let mut trial = vars.clone();
                match contents(rest, &got[skip..], &mut trial) {
                    Ok(()) => {
                        *vars = trial;
                        return Ok(());
                    }
                    Err(error) => why = error,
                }
            }
            Err(why)
        }
        (Some((Node::Text(wanted), rest)), Some((Node::Text(text), others))) => {
            if !glob(wanted, text, vars) {
                return Err(format!("`{text}` is not `{wanted}`"));
            }
            contents(rest, others, vars)
        }
        (Some((Node::Text(wanted), rest)), _) if glob(wanted, "", vars) => {
            contents(rest, got, vars)
        }
        (Some((Node::Element(wanted), rest)), Some((Node::Element(child), others))) => {
            matches(wanted, child, vars)?;
            contents(rest, others, vars)
        }
        (Some((Node::Element(wanted), _)), _) => Err(format!("no <{}>", wanted.local)),
        (Some((Node::Text(wanted), _)), _) => Err(format!("no text `{wanted}`")),
    }
}

/// Whether `value` is what `pattern` says.
fn glob(pattern: &str, value: &str, vars: &mut Vars) -> bool {
    if let Some(rest) = pattern.strip_prefix('*') {
        return splits(value).any(|(_, tail)| glob(rest, tail, vars));
    }
    let var = pattern.strip_prefix("${").and_then(|rest| rest.split_once('}'));
    if let Some((name, rest)) = var {
        if let Some(known) = vars.get(name).cloned() {
            return value.strip_prefix(&*known).is_some_and(|tail| glob(rest, tail, vars));
        }
        return splits(value).skip(1).any(|(head, tail)| {
            let mut trial = vars.clone();
            trial.insert(name.to_owned(), head.to_owned());
            let fits = glob(rest, tail, &mut trial);
            if fits {
                *vars = trial;
            }
            fits
        });
    }
    match (pattern.chars().next(), value.chars().next()) {
        (None, None) => true,
        (Some(wanted), Some(found)) if wanted == found => {
            glob(&pattern[wanted.len_utf8()..], &value[found.len_utf8()..], vars)
        }
        _ => false,
    }
}

/// All ways to cut a text in two.
fn splits(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).map(|at| text.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(wanted: &str, got: &str) -> Result<Vars, String> {
        let Item::Element(wanted) = pattern(wanted)? else { panic!("an element") };
        let Some((Item::Element(got), _)) = next(got)? else { panic!("an element") };
        let mut vars = Vars::new();
        matches(&wanted, &got, &mut vars).map(|()| vars)
    }

    #[test]
    fn quotes_order_and_prefixes_do_not_count() {
        let same = compare(
            "<iq a='1' b='x&amp;y'><q xmlns='urn:q'/></iq>",
            "<iq b=\"x&#38;y\" a=\"1\"><p:q xmlns:p=\"urn:q\"></p:q></iq>",
        );
        assert!(same.is_ok(), "{same:?}");
    }

    #[test]
    fn everything_else_counts() {
        for (wanted, got) in [
            ("<iq/>", "<message/>"),
            ("<iq/>", "<iq xmlns='urn:other'/>"),
            ("<iq/>", "<iq id='1'/>"),
            ("<iq id='1'/>", "<iq/>"),
            ("<iq id='1'/>", "<iq id='2'/>"),
            ("<iq/>", "<iq><a/></iq>"),
            ("<iq><a/></iq>", "<iq/>"),
            ("<iq><a/><b/></iq>", "<iq><b/><a/></iq>"),
            ("<iq>text</iq>", "<iq>other</iq>"),
            ("<iq>text</iq>", "<iq/>"),
            ("<iq/>", "<iq>text</iq>"),
            ("<iq><a/>…</iq>", "<iq><b/><a/></iq>"),
            ("<iq id='a*c'/>", "<iq id='ab'/>"),
            ("<iq id='${x}' to='${x}'/>", "<iq id='1' to='2'/>"),
        ] {
            assert!(compare(wanted, got).is_err(), "{wanted} must not match {got}");
        }
    }

    #[test]
    fn placeholders_stand_for_what_varies() {
        for (wanted, got) in [
            ("<iq …/>", "<iq id='1'/>"),
            ("<iq id='*'/>", "<iq id=''/>"),
            ("<iq>*</iq>", "<iq/>"),
            ("<iq>…</iq>", "<iq>a<b/>c</iq>"),
            ("<iq>…<b/></iq>", "<iq><a/><b/></iq>"),
        ] {
            assert!(compare(wanted, got).is_ok(), "{wanted} must match {got}");
        }
        let vars = compare("<iq to='a@b/${r}'>${t}</iq>", "<iq to='a@b/x'>y</iq>").expect("same");
        assert_eq!((vars["r"].as_str(), vars["t"].as_str()), ("x", "y"));
    }

    #[test]
    fn a_stream_comes_apart_only_when_an_item_is_complete() {
        let input = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                     xmlns:stream='http://etherx.jabber.org/streams' id='1'>";
        for end in 0..input.len() {
            assert!(next(&input[..end]).expect("is no error").is_none(), "at {end}");
        }
        assert!(matches!(next(input), Ok(Some((Item::Open(_), end))) if end == input.len()));
        assert!(matches!(next("<a><b></b>"), Ok(None)));
        assert!(matches!(next(" </stream:stream>"), Ok(Some((Item::End, 17)))));
        for wrong in ["text", "<a:b/>", "<a b='&x;'/>", "<a></b>", "</a>", "<a b='1'c='2'/>"] {
            assert!(next(wrong).is_err(), "{wrong}");
        }
    }
}
