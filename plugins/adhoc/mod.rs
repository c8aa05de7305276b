//! Ad-hoc commands (XEP-0050): the command table for whoever has an ordinary client, and the use cases
//! of service administration (XEP-0133) on top of it. Commands are asked of a host; each call goes
//! through the table, which checks it, writes the audit and says how it went.
//!
//! Deliberately absent: any decision about who may do what; commands of clients among each other, which
//! pass by; other languages than English.
//!
//! ```text
//!  iq ─► request ─► face ─┬─► generic ─┐
//!           │             └─► admin ───┴─► server::command ─► report ─► iq
//!         steps: what is under way         form: XEP-0004
//! ```

mod admin;
mod face;
pub(crate) mod form;
mod generic;
mod report;
mod request;
mod steps;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use server::{
    command::Caller,
    hooks::Flow,
    id::{AccountId, SessionId},
    iq::Answer,
    mailbox::Parcel,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, ErrorType, Kind, StanzaError, Xml, ns};

use self::{
    face::{Asked, Face, Next},
    form::{DATA, Filled},
    report::{Gravity, Report},
    request::{Action, COMMANDS, Refusal, Request, refused},
    steps::{Lost, Stage, Step, Steps},
};
use crate::disco::{Identity, Info};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "adhoc",
    about: "Lets accounts give commands from their clients",
    specs: &[
        Spec { id: "XEP-0004", version: "2.13.2", title: "Data Forms", note: "In ad-hoc commands" },
        Spec {
            id: "XEP-0050",
            version: "1.3.0",
            title: "Ad-Hoc Commands",
            note: "Every command of the table that the account may run, asked of a host, as \
                   `urn:usher:command:0#session-end`; in English, whatever the language of the \
                   request. A form of type `cancel` is refused rather than carried out",
        },
        Spec {
            id: "XEP-0133",
            version: "1.3.1",
            title: "Service Administration",
            note: admin::NOTE,
        },
    ],
    setup,
};

/// How long a stream is not read because of a command; the answer of one that takes longer comes later.
const PATIENCE: Duration = Duration::from_secs(2);

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[COMMANDS, DATA]);
    setup.iq(&[Target::Host], (COMMANDS, "command"), command);
    setup.ended(|cx| {
        cx.server.slot::<Steps>().gone(cx.session.id);
        Flow::Next
    });
}

/// What discovery tells about a node; none: it is not one of these.
pub fn info(iq: &Iq, node: &str) -> Option<Answer> {
    if node == COMMANDS {
        let (category, kind) = ("automation", "command-list");
        let identity = Identity { category, kind, lang: "", name: "Commands" };
        let info = Info { identities: vec![identity], features: vec![COMMANDS], forms: vec![] };
        return Some(info.answer(Some(node)));
    }
    let face = Face::find(node)?;
    let (iq, node) = (iq.clone(), node.to_owned());
    Some(Answer::later(async move {
        let caller = match iq.server.caller_of(&iq.session).await {
            Ok(caller) => caller,
            Err(error) => return Answer::Error(refused(&error)),
        };
        if !face.is_for(&iq.server, &caller) {
            return Answer::Error(forbidden());
        }
        let (category, kind) = ("automation", "command-node");
        let identity = Identity { category, kind, lang: "", name: face.title() };
        let features = vec![COMMANDS, DATA];
        Info { identities: vec![identity], features, forms: vec![] }.answer(Some(&node))
    }))
}

/// The commands that a session may run, as discovery lists them; none: it is another node.
pub fn items(iq: &Iq, node: &str) -> Option<Answer> {
    if node != COMMANDS {
        // Commands have nothing below them.
        return Face::find(node).map(|_| list(iq, node, None));
    }
    let iq = iq.clone();
    Some(Answer::later(async move {
        match iq.server.caller_of(&iq.session).await {
            Ok(caller) => list(&iq, COMMANDS, Some(&caller)),
            Err(error) => Answer::Error(refused(&error)),
        }
    }))
}

fn list(iq: &Iq, node: &str, caller: Option<&Caller>) -> Answer {
    let mut xml = Xml::new();
    xml.open("query").ns(ns::DISCO_ITEMS).attr("node", node);
    if let Some(caller) = caller {
        for face in Face::all().filter(|face| face.is_for(&iq.server, caller)) {
            xml.open("item").attr("jid", iq.to.as_str()).attr("node", &face.node());
            xml.attr("name", face.title()).close();
        }
    }
    Answer::Result(xml.finish())
}

fn forbidden() -> StanzaError {
    StanzaError::new(Condition::Forbidden).with_type(ErrorType::Cancel)
}

fn command(iq: &Iq) -> Answer {
    let request = match Request::read(iq) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    let Some(face) = Face::find(&request.node) else {
        refuse(iq, &request, &StanzaError::new(Condition::ItemNotFound));
        return Answer::Sent;
    };
    let steps = iq.server.slot::<Steps>();
    if !steps.run(iq.session.id) {
        let error = StanzaError::new(Condition::ResourceConstraint);
        let error = error.with_text("Another command of this session is under way");
        refuse(iq, &request, &error);
        return Answer::Sent;
    }
    let running = Running { steps, session: iq.session.id };
    let iq = iq.clone();
    Answer::later(async move {
        // It is seen through whatever becomes of this connection, or of this session.
        let task = tokio::spawn(async move {
            let answered = serve(&iq, face, &request).await;
            drop(running);
            match answered {
                Ok((answer, told)) => {
                    iq.reply(answer);
                    drop(told);
                }
                Err(error) => refuse(&iq, &request, &error),
            }
        });
        let _ = tokio::time::timeout(PATIENCE, task).await;
        Answer::Sent
    })
}

/// Answers with an error, and with the command that it is about: some clients look there for what they
/// have under way.
fn refuse(iq: &Iq, request: &Request, error: &StanzaError) {
    let mut xml = Xml::new();
    xml.open("iq").attr("type", "error").attr_opt("id", &iq.frame.id());
    xml.attr("from", iq.to.as_str()).attr("to", iq.from.as_str());
    xml.open("command").ns(COMMANDS).attr("node", &request.node);
    xml.attr_opt("sessionid", &request.id).attr("xml:lang", "en").close();
    error.write(&mut xml);
    iq.server.push(&iq.session, Parcel::whole(Kind::Iq, xml.finish()));
}

/// That a command of a session is carried out.
struct Running {
    steps: Arc<Steps>,
    session: SessionId,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.steps.ran(self.session);
    }
}

type Told = Vec<server::command::Collected>;

/// One request, from the permission to the answer.
async fn serve(iq: &Iq, face: Face, request: &Request) -> Result<(Answer, Told), StanzaError> {
    let caller = iq.server.caller_of(&iq.session).await.map_err(|error| refused(&error))?;
    let account = caller.account().map(server::command::Acting::id).ok_or_else(forbidden)?;
    let asked = Asked { server: iq.server.clone(), caller, host: iq.to.clone() };
    let exchange =
        Exchange { iq, face, node: &request.node, steps: iq.server.slot(), asked, account };
    match &request.id {
        Some(id) => exchange.go_on(id, request.action).await,
        None => exchange.begin(request.action).await,
    }
}

/// A request and all it takes to answer it.
struct Exchange<'a> {
    iq: &'a Iq,
    face: Face,
    node: &'a str,
    steps: Arc<Steps>,
    asked: Asked,
    account: AccountId,
}

impl Exchange<'_> {
    /// A form that comes with the first request is taken for filled in: a program that knows it need
    /// not ask for it.
    async fn begin(&self, action: Action) -> Result<(Answer, Told), StanzaError> {
        self.face.may_begin(&self.asked).await?;
        let filled = self.filled()?;
        let given = filled.is_some() || !self.face.asks();
        match action {
            Action::Execute | Action::Next | Action::Complete if given => {
                let filled = filled.unwrap_or_default();
                let shows = action == Action::Next && self.face.previews();
                let next = match shows {
                    true => self.face.preview(&self.asked, filled).await?,
                    false => self.face.complete(&self.asked, &filled, None).await?,
                };
                self.answer(None, next)
            }
            Action::Execute => {
                let id = self.wait(None, Stage::Form(Filled::new()))?;
                Ok(self.ask(&id, &Filled::new()))
            }
            _ => Err(Refusal::BadAction.because("nothing is under way; begin with `execute`")),
        }
    }

    async fn go_on(&self, id: &str, action: Action) -> Result<(Answer, Told), StanzaError> {
        let (session, now) = (self.iq.session.id, self.asked.server.clock.now());
        let step = self.steps.take(session, self.node, id, now).map_err(|lost| match lost {
            Lost::Over => Refusal::SessionExpired.because("this command is over; begin it anew"),
            Lost::Unknown => {
                Refusal::BadSessionid.because("this session has no such command under way")
            }
        })?;
        let answer = self.stage(id, &step.stage, action).await;
        if answer.is_err() && self.iq.session.alive() {
            // Something else can be said.
            self.steps.put_back(id, step, now);
        }
        answer
    }

    async fn stage(
        &self,
        id: &str,
        stage: &Stage,
        action: Action,
    ) -> Result<(Answer, Told), StanzaError> {
        let previews = self.face.previews();
        match (stage, action) {
            (_, Action::Cancel) => Ok((self.canceled(id), Told::new())),
            (Stage::Form(_), Action::Complete | Action::Execute) => {
                self.face.may_begin(&self.asked).await?;
                let filled = self.submitted()?;
                let next = self.face.complete(&self.asked, &filled, None).await?;
                self.answer(Some(id), next)
            }
            (Stage::Form(_), Action::Next) if previews => {
                self.face.may_begin(&self.asked).await?;
                let next = self.face.preview(&self.asked, self.submitted()?).await?;
                self.answer(Some(id), next)
            }
            (Stage::Preview { filled, hash }, Action::Complete | Action::Execute) => {
                self.face.may_begin(&self.asked).await?;
                let hash = hash.as_deref();
                let next = self.face.complete(&self.asked, filled, hash).await?;
                self.answer(Some(id), next)
            }
            (Stage::Preview { filled, .. }, Action::Prev) => {
                self.wait(Some(id), Stage::Form(filled.clone()))?;
                Ok(self.ask(id, filled))
            }
            (Stage::Form(_), Action::Next | Action::Prev)
            | (Stage::Preview { .. }, Action::Next) => {
                Err(Refusal::BadAction.because("this stage has no such action"))
            }
        }
    }

    /// The form that came with the request.
    fn filled(&self) -> Result<Option<Filled>, StanzaError> {
        let payload = self.iq.frame.payload();
        let Some(x) = payload.and_then(|payload| payload.el.child("x", DATA)) else {
            return Ok(None);
        };
        let filled = form::read(&x, &self.face.form_type(), &self.face.fields());
        filled.map(Some).map_err(|why| Refusal::BadPayload.because(why))
    }

    /// The same where there was a form to fill in; it may be left out if nothing has to be said.
    fn submitted(&self) -> Result<Filled, StanzaError> {
        if let Some(filled) = self.filled()? {
            return Ok(filled);
        }
        match self.face.fields().iter().find(|field| field.required) {
            Some(missing) => {
                let text = format!("the form is missing, and `{}` in it", missing.var);
                Err(Refusal::BadPayload.because(text))
            }
            None => Ok(Filled::new()),
        }
    }

    /// Waits for what the client says next, under this id if it has one.
    fn wait(&self, id: Option<&str>, stage: Stage) -> Result<String, StanzaError> {
        let now = self.asked.server.clock.now();
        let whose = (self.iq.session.id, self.account);
        if let Some(id) = id {
            self.steps.put_back(id, Step::new(whose, self.node, stage, now), now);
            return Ok(id.to_owned());
        }
        self.steps.begin(whose, self.node, stage, now).ok_or_else(|| {
            let error = StanzaError::new(Condition::ResourceConstraint);
            error.with_text("Too many commands are under way; finish or cancel some")
        })
    }

    fn answer(&self, id: Option<&str>, next: Next) -> Result<(Answer, Told), StanzaError> {
        let (report, id, status) = match next {
            Next::Over(report) => {
                let id = id.map(str::to_owned);
                let id = id.unwrap_or_else(|| self.steps.single(self.iq.session.id));
                (report, id, "completed")
            }
            Next::Shown(report, stage) => (report, self.wait(id, stage)?, "executing"),
        };
        let mut xml = self.command(&id, status);
        if status == "executing" {
            xml.open("actions").attr("execute", "complete");
            xml.open("prev").close().open("complete").close().close();
        }
        let Report { notes, forms, told } = report;
        xml.raw(&forms.finish());
        for (gravity, text) in notes {
            note(&mut xml, gravity, &text);
        }
        Ok((Answer::Result(xml.finish()), told))
    }

    fn ask(&self, id: &str, filled: &Filled) -> (Answer, Told) {
        let mut xml = self.command(id, "executing");
        xml.open("actions").attr("execute", "complete");
        if self.face.previews() {
            xml.open("next").close();
        }
        xml.open("complete").close().close();
        let (face, kind) = (self.face, self.face.form_type());
        form::ask(&mut xml, &kind, face.title(), face.about(), &face.fields(), filled);
        (Answer::Result(xml.finish()), Told::new())
    }

    fn canceled(&self, id: &str) -> Answer {
        Answer::Result(self.command(id, "canceled").finish())
    }

    fn command(&self, id: &str, status: &str) -> Xml {
        let mut xml = Xml::new();
        xml.open("command").ns(COMMANDS).attr("node", self.node).attr("sessionid", id);
        xml.attr("status", status).attr("xml:lang", "en");
        xml
    }
}

fn note(xml: &mut Xml, gravity: Gravity, text: &str) {
    xml.open("note").attr("type", gravity.as_str()).text(text).close();
}

/// Number of commands that wait for what their clients say.
#[cfg(test)]
fn waiting(server: &server::Server) -> usize {
    server.slot::<Steps>().waiting()
}
