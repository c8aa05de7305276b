//! What is offered as an ad-hoc command: a command of the table as it is, or a use case of service
//! administration that stands for one or more of them. Both have a node, a form, and a way to be
//! carried out; who may do so, the table alone decides.

use std::sync::Arc;

use serde_json::{Map, Value};
use server::{
    Server,
    command::{self, Caller, Collected, Command},
};
use wire::{Jid, StanzaError};

use super::{
    admin::{self, Task},
    form::{Field, Filled},
    generic,
    report::{self, Report},
    request::refused,
    steps::Stage,
};

/// Something that is offered.
#[derive(Clone, Copy)]
pub enum Face {
    /// A use case of XEP-0133.
    Admin(&'static Task),
    /// A command of the table.
    Generic(&'static Command),
}

/// Who asks whom.
#[derive(Clone)]
pub struct Asked {
    /// The server.
    pub server: Arc<Server>,
    /// Who asks.
    pub caller: Caller,
    /// The domain that is asked.
    pub host: Jid,
}

impl Asked {
    /// Runs a command of the table.
    pub async fn run(&self, name: &str, args: Map<String, Value>, most: usize) -> Collected {
        command::collect(self.server.clone(), self.caller.clone(), name, args, most).await
    }
}

/// What comes of a stage.
pub enum Next {
    /// It is over.
    Over(Report),
    /// It was shown what would be done.
    Shown(Report, Stage),
}

impl Face {
    /// All, the standard ones first.
    pub fn all() -> impl Iterator<Item = Self> {
        admin::TASKS.iter().map(Self::Admin).chain(generic::all().map(Self::Generic))
    }

    /// The one of a node.
    pub fn find(node: &str) -> Option<Self> {
        admin::find(node).map(Self::Admin).or_else(|| generic::find(node).map(Self::Generic))
    }

    /// Its node.
    pub fn node(self) -> String {
        match self {
            Self::Admin(task) => task.node(),
            Self::Generic(command) => generic::node(command),
        }
    }

    /// For people, in a line.
    pub fn title(self) -> &'static str {
        match self {
            Self::Admin(task) => task.title,
            Self::Generic(command) => command.about,
        }
    }

    /// For people, what else there is to know.
    pub fn about(self) -> &'static str {
        match self {
            Self::Admin(task) => task.about,
            Self::Generic(command) => command.details,
        }
    }

    /// What its forms are for (XEP-0068).
    pub fn form_type(self) -> String {
        match self {
            Self::Admin(_) => admin::NAMESPACE.into(),
            Self::Generic(command) => generic::node(command),
        }
    }

    /// What is to be filled in.
    pub fn fields(self) -> Vec<Field> {
        match self {
            Self::Admin(task) => task.fields.to_vec(),
            Self::Generic(command) => generic::fields(command),
        }
    }

    /// The commands of the table that it stands for.
    fn commands(self) -> Vec<&'static Command> {
        match self {
            Self::Admin(task) => {
                task.commands.iter().filter_map(|name| command::find(name)).collect()
            }
            Self::Generic(command) => vec![command],
        }
    }

    /// Whether something is asked before it is carried out: what is to be filled in, or whether it is
    /// meant.
    pub fn asks(self) -> bool {
        !self.fields().is_empty() || self.commands().iter().any(|command| command.mutates)
    }

    /// Whether it can show first what it would do.
    pub fn previews(self) -> bool {
        matches!(self, Self::Generic(command) if generic::previews(command))
    }

    /// Whether it is for this caller at all.
    pub fn is_for(self, server: &Server, caller: &Caller) -> bool {
        self.commands().iter().all(|command| server.offers(caller, command))
    }

    /// Whether the caller may carry it out now.
    ///
    /// # Errors
    /// The answer if not.
    pub async fn may_begin(self, asked: &Asked) -> Result<(), StanzaError> {
        for command in self.commands() {
            let begun = command::may_begin(&asked.server, &asked.caller, command).await;
            begun.map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// Carries it out.
    ///
    /// # Errors
    /// When the caller was not let, or called wrongly.
    pub async fn complete(
        self,
        asked: &Asked,
        filled: &Filled,
        hash: Option<&str>,
    ) -> Result<Next, StanzaError> {
        match self {
            Self::Admin(task) => (task.run)(asked.clone(), filled.clone()).await.map(Next::Over),
            Self::Generic(command) => {
                let mut args = generic::args(command, filled);
                if hash.is_some() {
                    args = generic::held_to(command, args, hash);
                }
                let collected = asked.run(command.name, args.clone(), report::ROWS).await;
                report::of(command, &self.form_type(), &args, collected).map(Next::Over)
            }
        }
    }

    /// Shows what it would do.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub async fn preview(self, asked: &Asked, filled: Filled) -> Result<Next, StanzaError> {
        let Self::Generic(command) = self else {
            return self.complete(asked, &filled, None).await;
        };
        let args = generic::dry(generic::args(command, &filled));
        let collected = asked.run(command.name, args.clone(), report::ROWS).await;
        let done = collected.outcome.as_ref().ok();
        let hash = done.and_then(|done| done.fields.get("hash")?.as_str()).map(str::to_owned);
        let report = report::of(command, &self.form_type(), &args, collected)?;
        Ok(Next::Shown(report, Stage::Preview { filled, hash }))
    }
}
