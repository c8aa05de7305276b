//! One client of a dialogue, over whatever carries its bytes, and the running of a script.
//!
//! A [`Link`] is the state machine itself or a connection to a server; neither knows of scripts.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    scram::{Exchange, Possession},
    script::{Act, Case, Fast, Scram},
    xml::{self, Item, Node, Tree, Vars},
};

const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const SASL2: &str = "urn:xmpp:sasl:2";
/// The header that a client sends if nothing else is to be shown.
pub const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                          xmlns:stream='http://etherx.jabber.org/streams' to='localhost' \
                          version='1.0'>";

/// What came from the server.
pub enum Got {
    Bytes(Vec<u8>),
    /// It has closed the connection.
    Eof,
    /// Nothing, and nothing will until something is sent.
    Nothing,
}

/// A way to a server.
pub trait Link {
    /// Sends; a server that has closed takes no notice.
    fn send(&mut self, bytes: &[u8]) -> impl Future<Output = ()> + Send;
    /// Waits for what the server sends.
    fn receive(&mut self) -> impl Future<Output = Got> + Send;
    /// The client's side of a TLS handshake.
    fn start_tls(&mut self) -> impl Future<Output = Result<(), String>> + Send;
    /// Goes away without a word.
    fn cut(&mut self);
    /// What authentication can be bound to, by its type.
    fn binding(&self, kind: &str) -> Vec<u8>;
}

/// How the bytes that a client sends are cut.
#[derive(Clone, Debug)]
pub enum Chunks {
    Whole,
    /// Pieces of one to eight bytes and of one to sixty-four by turns; the number is the seed.
    Random(u64),
    Bytes,
}

impl Chunks {
    fn length(&mut self) -> usize {
        match self {
            Self::Whole => usize::MAX,
            Self::Bytes => 1,
            Self::Random(state) => {
                // Xorshift: any seed but 0 will do.
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                let width = if *state & 1 == 0 { 8 } else { 64 };
                usize::try_from((*state >> 8) % width + 1).unwrap_or(1)
            }
        }
    }
}

/// One client.
pub struct Client<L> {
    pub link: L,
    chunks: Chunks,
    inbox: Vec<u8>,
    /// Items that were looked at and not taken.
    seen: VecDeque<Item>,
    scram: Option<Exchange>,
    possession: Option<Possession>,
    /// The server has opened a stream that is not over.
    open: bool,
    /// The connection is over.
    over: bool,
}

impl<L: Link> Client<L> {
    pub fn new(link: L, chunks: Chunks) -> Self {
        let (inbox, seen) = (Vec::new(), VecDeque::new());
        let (scram, possession) = (None, None);
        Self { link, chunks, inbox, seen, scram, possession, open: false, over: false }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(self.chunks.length().min(rest.len()));
            self.link.send(piece).await;
            rest = others;
        }
    }

    /// The next item; none when the connection is over.
    pub async fn next(&mut self) -> Result<Option<Item>, String> {
        if let Some(item) = self.seen.pop_front() {
            return Ok(Some(item));
        }
        loop {
            let valid = match std::str::from_utf8(&self.inbox) {
                Ok(text) => text,
                Err(error) => std::str::from_utf8(&self.inbox[..error.valid_up_to()])
                    .map_err(|why| why.to_string())?,
            };
            if let Some((item, end)) = xml::next(valid).map_err(|why| self.context(&why))? {
                self.inbox.drain(..end);
                match &item {
                    Item::Open(_) => self.open = true,
                    Item::End => self.open = false,
                    Item::Element(tree) if tree.ns == SASL && tree.local == "success" => {
                        self.open = false;
                    }
                    Item::Element(_) => {}
                }
                return Ok(Some(item));
            }
            match self.link.receive().await {
                Got::Bytes(bytes) => self.inbox.extend_from_slice(&bytes),
                Got::Nothing => return Err(self.context("nothing more comes")),
                Got::Eof => {
                    self.over = true;
                    let rest = self.inbox.trim_ascii();
                    if rest.is_empty() {
                        return Ok(None);
                    }
                    return Err(self.context("the connection ended in the middle of an element"));
                }
            }
        }
    }

    fn context(&self, why: &str) -> String {
        match self.inbox.is_empty() {
            true => why.to_owned(),
            false => format!("{why}; unread: `{}`", String::from_utf8_lossy(&self.inbox)),
        }
    }

    /// Expects an item that fits.
    pub async fn expect_item(&mut self, wanted: &Item, vars: &mut Vars) -> Result<(), String> {
        let got = self.next().await?;
        match (wanted, &got) {
            (Item::Open(wanted), Some(Item::Open(got)))
            | (Item::Element(wanted), Some(Item::Element(got))) => {
                xml::matches(wanted, got, vars).map_err(|why| format!("{why}; got {}", show(got)))
            }
            (Item::End, Some(Item::End)) => Ok(()),
            _ => Err(format!("{} instead of {}", name(got.as_ref()), name(Some(wanted)))),
        }
    }

    /// Expects that the server closes its stream, and then the connection.
    pub async fn expect_close(&mut self) -> Result<(), String> {
        self.expect_item(&Item::End, &mut Vars::new()).await?;
        self.expect_cut().await
    }

    /// Expects that the connection is over, without another word.
    pub async fn expect_cut(&mut self) -> Result<(), String> {
        match self.next().await? {
            None => {
                self.link.cut();
                Ok(())
            }
            got => Err(format!("{} instead of the end of the connection", name(got.as_ref()))),
        }
    }

    /// Runs SCRAM up to the proof, or to the server's refusal, which stays unread.
    pub async fn scram(&mut self, plan: &Scram) -> Result<(), String> {
        let mut exchange = Exchange::new(plan, |kind| self.link.binding(kind));
        let (mechanism, first) = (&plan.mechanism, STANDARD.encode(exchange.first()));
        let profile = if plan.inline.is_some() { SASL2 } else { SASL };
        self.send(match &plan.inline {
            None => format!("<auth xmlns='{SASL}' mechanism='{mechanism}'>{first}</auth>"),
            Some(inline) => authenticate(mechanism, &first, inline),
        })
        .await;
        match self.next().await? {
            Some(Item::Element(challenge))
                if challenge.local == "challenge" && challenge.ns == profile =>
            {
                let last = STANDARD.encode(exchange.last(&decoded(&challenge)?)?);
                self.send(format!("<response xmlns='{profile}'>{last}</response>")).await;
                self.scram = Some(exchange);
                Ok(())
            }
            Some(other) => {
                self.seen.push_back(other);
                Ok(())
            }
            None => Err("the connection ended instead of a challenge".into()),
        }
    }

    /// Expects `<success/>` with the server's own proof.
    pub async fn expect_scram(&mut self) -> Result<(), String> {
        match self.next().await? {
            Some(Item::Element(success)) if success.ns == SASL && success.local == "success" => {
                let exchange = self.scram.take().ok_or("no SCRAM exchange is under way")?;
                exchange.verify(&decoded(&success)?)
            }
            got => Err(format!("{} instead of <success>", name(got.as_ref()))),
        }
    }

    /// The same in the profile of SASL 2; what else it says has to fit.
    pub async fn expect_scram2(&mut self, rest: &Item, vars: &mut Vars) -> Result<(), String> {
        let exchange = self.scram.take().ok_or("no SCRAM exchange is under way")?;
        let proof = self.expect_success(rest, vars).await?;
        exchange.verify(&String::from_utf8(proof).map_err(|why| why.to_string())?)
    }

    /// Shows that it has a token of FAST.
    pub async fn fast(&mut self, plan: &Fast) {
        let possession = Possession::new(plan, |kind| self.link.binding(kind));
        let message = STANDARD.encode(&possession.message);
        self.send(authenticate(&plan.mechanism, &message, &plan.inline)).await;
        self.possession = Some(possession);
    }

    /// Expects that the server has the token too; what else it says has to fit.
    pub async fn expect_fast(&mut self, rest: &Item, vars: &mut Vars) -> Result<(), String> {
        let possession = self.possession.take().ok_or("no token was shown")?;
        let proof = self.expect_success(rest, vars).await?;
        let right = proof == possession.answer;
        right.then_some(()).ok_or_else(|| format!("{proof:?} proves no possession of the token"))
    }

    /// Expects a `<success/>` of SASL 2 that fits but for its additional data, which are given.
    async fn expect_success(&mut self, rest: &Item, vars: &mut Vars) -> Result<Vec<u8>, String> {
        let Item::Element(wanted) = rest else { return Err("no element is expected".into()) };
        match self.next().await? {
            Some(Item::Element(mut got)) if got.ns == SASL2 && got.local == "success" => {
                let mut proof = None;
                got.content.retain(|node| match node {
                    Node::Element(data) if data.local == "additional-data" => {
                        proof = Some(decoded_bytes(data));
                        false
                    }
                    _ => true,
                });
                xml::matches(wanted, &got, vars)
                    .map_err(|why| format!("{why}; got {}", show(&got)))?;
                proof.ok_or("no additional data")?
            }
            got => Err(format!("{} instead of <success>", name(got.as_ref()))),
        }
    }

    pub async fn start_tls(&mut self) -> Result<(), String> {
        if !self.inbox.is_empty() {
            return Err(self.context("something came in the clear behind <proceed/>"));
        }
        self.open = false;
        self.link.start_tls().await
    }

    /// Closes an open stream and expects the same from the server, with nothing left before it.
    async fn finish(&mut self) -> Result<(), String> {
        if self.open && !self.over {
            self.send("</stream:stream>").await;
            self.expect_close().await.map_err(|why| format!("at the end: {why}"))?;
        }
        self.link.cut();
        Ok(())
    }
}

/// Runs a case. `clients` has one for each name.
pub async fn run<L: Link>(
    case: &Case,
    clients: &mut HashMap<String, Client<L>>,
    vars: &mut Vars,
) -> Result<(), String> {
    for step in &case.steps {
        let client = clients.get_mut(&step.client).ok_or("a client without a connection")?;
        let done = match &step.act {
            Act::Drop => {
                client.link.cut();
                Ok(())
            }
            Act::Expect(item) => client.expect_item(item, vars).await,
            Act::ExpectClose => client.expect_close().await,
            Act::ExpectCut => client.expect_cut().await,
            Act::ExpectFast(rest) => client.expect_fast(rest, vars).await,
            Act::ExpectScram(None) => client.expect_scram().await,
            Act::ExpectScram(Some(rest)) => client.expect_scram2(rest, vars).await,
            Act::Fast(plan) => {
                let (token, inline) = (text(&plan.token, vars)?, text(&plan.inline, vars)?);
                client.fast(&Fast { token, inline, ..plan.clone() }).await;
                Ok(())
            }
            Act::Scram(plan) => {
                let inline = plan.inline.as_deref().map(|inline| text(inline, vars)).transpose()?;
                client.scram(&Scram { inline, ..plan.clone() }).await
            }
            Act::Send(text) => {
                let bytes = render(text, vars)?;
                client.send(bytes).await;
                Ok(())
            }
            Act::StartTls => client.start_tls().await,
        };
        done.map_err(|why| {
            let who = if step.client.is_empty() { "" } else { " to " };
            format!("line {}{who}{}: {why}", step.line, step.client)
        })?;
    }
    // What several clients still have to tell each other while they leave is not part of the case.
    if let [client] = clients.values_mut().collect::<Vec<_>>().as_mut_slice() {
        client.finish().await?;
    }
    Ok(())
}

/// The bytes of a line that a client sends: `\xHH`, `\0`, `\t`, `\n`, `\r`, `\\` are bytes,
/// `${name}` is what has been seen or minted, `${3*ab}` is `ababab`, `{{…}}` is base64 of what it
/// holds.
pub fn render(text: &str, vars: &Vars) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix("{{") {
            let (inner, tail) = braces(tail)?;
            out.extend_from_slice(STANDARD.encode(render(inner, vars)?).as_bytes());
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("${") {
            let (inner, tail) = tail.split_once('}').ok_or("`${` without `}`")?;
            match inner.split_once('*') {
                Some((count, unit)) => {
                    let count = count.parse().map_err(|_| format!("`{count}` is no number"))?;
                    out.extend_from_slice(unit.repeat(count).as_bytes());
                }
                None => {
                    let value = vars.get(inner).ok_or_else(|| format!("no `{inner}` yet"))?;
                    out.extend_from_slice(value.as_bytes());
                }
            }
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('\\') {
            let escape = tail.chars().next().ok_or("`\\` at the end")?;
            rest = &tail[escape.len_utf8()..];
            out.push(match escape {
                '0' => 0,
                't' => b'\t',
                'n' => b'\n',
                'r' => b'\r',
                '\\' => b'\\',
                'x' => {
                    let hex = rest.get(..2).ok_or("`\\x` takes two digits")?;
                    rest = &rest[2..];
                    u8::from_str_radix(hex, 16).map_err(|_| format!("`\\x{hex}`"))?
                }
                other => return Err(format!("`\\{other}` means nothing")),
            });
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok(out)
}

/// A pattern with its `{{…}}` as base64; names stay as they are.
pub fn encode(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("{{") {
        let (inner, tail) = braces(tail)?;
        out.push_str(head);
        out.push_str(&STANDARD.encode(render(inner, &Vars::new())?));
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// What is inside `{{…}}`, and what follows. Of more than two closing braces the last two count.
fn braces(text: &str) -> Result<(&str, &str), String> {
    let first = text.find("}}").ok_or("`{{` without `}}`")?;
    let more = text[first + 2..].bytes().take_while(|byte| *byte == b'}').count();
    Ok((&text[..first + more], &text[first + more + 2..]))
}

/// What a client asks for with a login of SASL 2.
fn authenticate(mechanism: &str, initial: &str, inline: &str) -> String {
    format!(
        "<authenticate xmlns='{SASL2}' mechanism='{mechanism}'>\
         <initial-response>{initial}</initial-response>{inline}</authenticate>"
    )
}

/// A part of a line that a client sends, filled in.
fn text(part: &str, vars: &Vars) -> Result<String, String> {
    String::from_utf8(render(part, vars)?).map_err(|why| why.to_string())
}

/// The text of a SASL message.
fn decoded(tree: &Tree) -> Result<String, String> {
    String::from_utf8(decoded_bytes(tree)?).map_err(|why| why.to_string())
}

fn decoded_bytes(tree: &Tree) -> Result<Vec<u8>, String> {
    let text = match &*tree.content {
        [] => "",
        [Node::Text(text)] => text,
        _ => return Err(format!("<{}> holds more than base64", tree.local)),
    };
    STANDARD.decode(text).map_err(|why| format!("`{text}`: {why}"))
}

fn name(item: Option<&Item>) -> String {
    match item {
        None => "the end of the connection".into(),
        Some(Item::End) => "the end of the stream".into(),
        Some(Item::Open(tree)) => format!("a stream header {}", show(tree)),
        Some(Item::Element(tree)) => show(tree),
    }
}

/// An element for people: namespaces where they change, attributes by name.
pub fn show(tree: &Tree) -> String {
    show_in(tree, "jabber:client")
}

fn show_in(tree: &Tree, ns: &str) -> String {
    let mut out = format!("<{}", tree.local);
    if tree.ns != ns {
        out.push_str(&format!(" xmlns='{}'", tree.ns));
    }
    for ((_, local), value) in &tree.attrs {
        out.push_str(&format!(" {local}='{value}'"));
    }
    if tree.content.is_empty() {
        return out + "/>";
    }
    out.push('>');
    for node in &tree.content {
        match node {
            Node::Element(child) => out.push_str(&show_in(child, &tree.ns)),
            Node::Text(text) => out.push_str(text),
            Node::Any => out.push('…'),
        }
    }
    out.push_str(&format!("</{}>", tree.local));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_filled_in() {
        let vars = Vars::from([("id".to_owned(), "7".to_owned())]);
        let bytes = render(r"a\x00\t${id}{{\0b${id}}}${3*xy}", &vars).expect("is right");
        assert_eq!(bytes, b"a\0\t7AGI3xyxyxy");
        assert_eq!(encode("<a>{{n,,}}</a>").expect("is right"), "<a>biws</a>");
        for wrong in ["{{a", "${a", "${b}", r"\q", r"\x4", "\\"] {
            assert!(render(wrong, &vars).is_err(), "{wrong}");
        }
    }
}
