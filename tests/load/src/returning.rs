//! How a client comes back: with a token in one round trip (SASL 2, Bind 2 and FAST: XEP-0388,
//! XEP-0386, XEP-0484), and to a stream that has outlived its connection (XEP-0198).

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::memmem;

use crate::{
    client::{Client, header, nonce, payload, show},
    framing::{attribute, text},
    scram,
    target::Target,
};

/// The mechanism of tokens, as there is no TLS here that they could be bound to.
const MECHANISM: &str = "HT-SHA-256-NONE";

/// What lets an account in next time.
#[derive(Clone, Debug)]
pub struct Pass {
    token: String,
}

/// What goes on with a stream.
#[derive(Clone, Debug)]
pub struct Ticket {
    previd: String,
    /// How many of its stanzas have come.
    handled: u32,
}

/// What a client comes back for.
#[derive(Clone, Copy, Debug)]
pub enum Errand<'a> {
    /// A session of its own; `managed`: whose stream can be resumed.
    Bind { managed: bool },
    /// The earlier stream.
    Resume(&'a Ticket),
}

impl Client {
    /// Logs in with the password, binds and gets a token for the next time.
    pub async fn enlist(target: &Target, index: u32, managed: bool) -> Result<(Self, Pass)> {
        let mut client = Self::connect(target, index).await?;
        let user = target.user(index);
        let mut exchange = scram::Exchange::new(&user, nonce());
        let wish = format!("<request-token xmlns='urn:xmpp:fast:0' mechanism='{MECHANISM}'/>");
        let first = authenticate("SCRAM-SHA-256", exchange.first().as_bytes(), index)
            + &wish
            + &errand(Errand::Bind { managed });
        client.writer.send((header(target) + &first).as_bytes()).await?;
        client.features().await.context("no stream")?;
        let challenge = client.element().await?;
        ensure!(challenge.starts_with(b"<challenge"), "refused: {}", show(&challenge));
        let last = exchange.last(&payload(&challenge)?, &target.password(index), &target.keys)?;
        let response =
            format!("<response xmlns='urn:xmpp:sasl:2'>{}</response>", STANDARD.encode(last));
        client.writer.send(response.as_bytes()).await?;
        let success = client.succeeded().await?;
        let said = STANDARD.decode(text(&success, "additional-data").unwrap_or_default())?;
        exchange.verify(&String::from_utf8(said)?)?;
        client.enter(&success, managed)?;
        let pass = pass(&success).with_context(|| format!("no token: {}", show(&success)))?;
        Ok((client, pass))
    }

    /// Comes back with a token: everything is sent at once, and one answer says it all. A token that
    /// comes with it takes the place of the one that was used.
    pub async fn come_back(
        target: &Target,
        index: u32,
        with: &mut Pass,
        why: Errand<'_>,
    ) -> Result<Self> {
        let mut client = Self::connect(target, index).await?;
        let proof = scram::mac(with.token.as_bytes(), b"Initiator");
        let initial = [target.user(index).as_bytes(), b"\0", &proof].concat();
        let all = header(target)
            + &authenticate(MECHANISM, &initial, index)
            + "<fast xmlns='urn:xmpp:fast:0'/>"
            + &errand(why);
        client.writer.send(all.as_bytes()).await?;
        client.features().await.context("no stream")?;
        let success = client.succeeded().await?;
        let said = STANDARD.decode(text(&success, "additional-data").unwrap_or_default())?;
        let right = scram::mac(with.token.as_bytes(), b"Responder");
        ensure!(said == right, "the server has not shown that it knows the token");
        match why {
            Errand::Bind { managed } => client.enter(&success, managed)?,
            Errand::Resume(ticket) => client.go_on(&success, ticket)?,
        }
        if let Some(newer) = pass(&success) {
            *with = newer;
        }
        Ok(client)
    }

    /// Makes the stream of a bound session one that can be resumed.
    pub async fn manage(&mut self) -> Result<()> {
        self.writer.send(b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await?;
        let enabled = loop {
            let element = self.element().await?;
            if !element.starts_with(b"<iq") && !element.starts_with(b"<presence") {
                break element;
            }
        };
        self.managed(&enabled)
    }

    /// Logs in with the password and goes on with an earlier stream.
    pub async fn resume(target: &Target, index: u32, ticket: &Ticket) -> Result<Self> {
        let mut client = Self::prove(target, index).await?;
        let Ticket { previd, handled } = ticket;
        let resume = format!("<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{handled}'/>");
        client.writer.send(resume.as_bytes()).await?;
        let resumed = client.element().await?;
        client.go_on(&resumed, ticket)?;
        Ok(client)
    }

    /// Acknowledges everything that has come.
    pub async fn acknowledge(&mut self) -> Result<()> {
        let ack = format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", self.reader.handled);
        self.writer.send(ack.as_bytes()).await
    }

    /// What resumes its stream once it is cut.
    pub fn ticket(&self) -> Result<Ticket> {
        let previd = self.previd.clone().context("its stream cannot be resumed")?;
        Ok(Ticket { previd, handled: self.reader.handled })
    }

    async fn succeeded(&mut self) -> Result<Vec<u8>> {
        let outcome = self.element().await?;
        ensure!(outcome.starts_with(b"<success"), "refused: {}", show(&outcome));
        Ok(outcome)
    }

    fn enter(&mut self, success: &[u8], managed: bool) -> Result<()> {
        let jid = text(success, "authorization-identifier").context("no JID in the answer")?;
        ensure!(jid.contains('/'), "not bound: {}", show(success));
        self.jid = jid.to_owned();
        if managed { self.managed(part(success, "enabled")?) } else { Ok(()) }
    }

    fn managed(&mut self, enabled: &[u8]) -> Result<()> {
        let id = attribute(enabled, "id").filter(|_| enabled.starts_with(b"<enabled"));
        self.previd = Some(id.with_context(|| format!("refused: {}", show(enabled)))?.to_owned());
        self.reader.handled = 0;
        Ok(())
    }

    fn go_on(&mut self, answer: &[u8], ticket: &Ticket) -> Result<()> {
        let resumed = part(answer, "resumed")?;
        ensure!(attribute(resumed, "previd") == Some(&ticket.previd), "another was resumed");
        self.previd = Some(ticket.previd.clone());
        self.reader.handled = ticket.handled;
        Ok(())
    }
}

/// The beginning of `<authenticate/>`, up to what is asked for with it.
fn authenticate(mechanism: &str, initial: &[u8], index: u32) -> String {
    format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>\
         <initial-response>{}</initial-response>\
         <user-agent id='{index:08x}-0000-4000-8000-000000000000'><software>load</software>\
         </user-agent>",
        STANDARD.encode(initial)
    )
}

/// What is asked for, and the end of `<authenticate/>`.
fn errand(errand: Errand<'_>) -> String {
    match errand {
        Errand::Bind { managed } => {
            let enable = if managed { "<enable xmlns='urn:xmpp:sm:3' resume='true'/>" } else { "" };
            format!("<bind xmlns='urn:xmpp:bind:0'>{enable}</bind></authenticate>")
        }
        Errand::Resume(Ticket { previd, handled }) => {
            format!(
                "<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{handled}'/></authenticate>"
            )
        }
    }
}

/// The token that is in an answer.
fn pass(success: &[u8]) -> Option<Pass> {
    let token = attribute(part(success, "token").ok()?, "token")?;
    Some(Pass { token: token.to_owned() })
}

/// The descendant of this name, and what follows.
fn part<'a>(element: &'a [u8], name: &str) -> Result<&'a [u8]> {
    let at = memmem::find(element, format!("<{name} ").as_bytes());
    at.map(|at| &element[at..]).with_context(|| format!("no <{name}/>: {}", show(element)))
}
