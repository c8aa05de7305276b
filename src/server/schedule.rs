//! Commands that are to run later: stored when they are scheduled, run once when their time has come,
//! also if the server was down then. They run with the rights that whoever scheduled them has at that
//! moment, and what they are about is looked for at that moment as well.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::{
    Server,
    clock::Millis,
    command::{self, Caller, CommandError},
    id::AccountId,
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// Commands that one account may have planned at once.
const PER_ACCOUNT: usize = 16;

/// Why a command was not planned.
#[derive(Debug, thiserror::Error)]
pub enum NotPlanned {
    /// It is bound by what may be gone by then: a token, or a client that has only just come.
    #[error("whoever plans has to be all that its account is, from a client that is not new")]
    Bounded,
    /// The account has planned enough.
    #[error("an account may have {PER_ACCOUNT} commands planned")]
    TooMany,
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NotPlanned> for CommandError {
    fn from(error: NotPlanned) -> Self {
        match error {
            NotPlanned::Store(error) => error.into(),
            NotPlanned::Bounded => Self::forbidden(error.to_string())
                .hint("do it now, or log in with the password from an older client"),
            NotPlanned::TooMany => Self::failed(error.to_string())
                .hint("`usher schedule list` shows them, `usher schedule cancel` strikes one out"),
        }
    }
}

/// Scheduled commands by number.
pub static SCHEDULE: Table = Table { name: "schedule", about: "commands that are to run later" };

/// A command that is to run later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planned {
    /// Its number.
    pub id: u64,
    /// When it is to run.
    pub at: Millis,
    /// Which command.
    pub what: String,
    /// With which arguments.
    pub args: Map<String, Value>,
    /// Who scheduled it, as the audit knows them.
    pub by: String,
    /// The account that did, if it was one.
    pub account: Option<(AccountId, String)>,
    /// The account's generation then: what whoever knew an earlier password has planned is void.
    #[serde(default)]
    generation: Option<u64>,
    /// Only what is the account's own may be touched.
    #[serde(default)]
    own: bool,
    /// When it was scheduled.
    pub since: Millis,
}

fn key(id: u64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

impl Server {
    /// Plans a command, durably. When it runs, its caller has the rights that it has then, and no more
    /// reach than now. What bounds the caller besides is not kept, so whoever it bounds plans nothing.
    ///
    /// # Errors
    /// [`NotPlanned`].
    pub async fn plan(
        &self,
        at: Millis,
        what: &str,
        args: Map<String, Value>,
        caller: &Caller,
        own: bool,
    ) -> Result<Planned, NotPlanned> {
        let account = caller.account().map(|me| (me.id(), me.jid().as_str().to_owned()));
        let mut generation = None;
        if let Some(me) = caller.account() {
            if me.narrowed() {
                return Err(NotPlanned::Bounded);
            }
            let mine =
                |planned: &Planned| planned.account.as_ref().is_some_and(|(id, _)| *id == me.id());
            if self.planned().await?.iter().filter(|planned| mine(planned)).count() >= PER_ACCOUNT {
                return Err(NotPlanned::TooMany);
            }
            let account = self.account(me.jid().as_str()).await?;
            generation = account.map(|account| account.generation);
        }
        loop {
            let latest = Range { reverse: true, limit: 1, ..Range::default() };
            let last = self.planned_rows(latest).await?.last().map_or(0, |last| last.id);
            let planned = Planned {
                id: last + 1,
                at,
                what: what.into(),
                args: args.clone(),
                by: caller.name().to_string(),
                account: account.clone(),
                generation,
                own,
                since: self.clock.now(),
            };
            let value = serde_json::to_vec(&planned).unwrap_or_default();
            let batch = Batch::new().expect(&SCHEDULE, SERVER, key(planned.id), None).put(
                &SCHEDULE,
                SERVER,
                key(planned.id),
                value,
            );
            match self.store.commit(batch).await {
                Ok(()) => return Ok(planned),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Everything that is planned, in the order of its numbers.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn planned(&self) -> Result<Vec<Planned>, StoreError> {
        self.planned_rows(Range::all()).await
    }

    async fn planned_rows(&self, range: Range) -> Result<Vec<Planned>, StoreError> {
        let rows = self.store.rows(&SCHEDULE, SERVER, range).await?;
        rows.iter()
            .map(|row| {
                serde_json::from_slice(&row.value).map_err(|why| StoreError::Corrupt {
                    table: SCHEDULE.name,
                    why: why.to_string(),
                })
            })
            .collect()
    }

    /// Strikes out what is planned under this number. False: nothing is.
    ///
    /// # Errors
    /// When storage fails: it is still planned then.
    pub async fn unplan(&self, id: u64) -> Result<bool, StoreError> {
        let row = self.store.get(&SCHEDULE, SERVER, &key(id)).await?;
        let Some(row) = row else { return Ok(false) };
        let batch = Batch::new().expect(&SCHEDULE, SERVER, key(id), Some(row)).delete(
            &SCHEDULE,
            SERVER,
            key(id),
        );
        match self.store.commit(batch).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs what is due by the server's clock, each once. Gives how many it ran.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn run_due(self: &Arc<Self>) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let mut ran = 0;
        for planned in self.planned().await?.into_iter().filter(|planned| planned.at <= now) {
            // Struck out first: what fails, fails once.
            if !self.unplan(planned.id).await? {
                continue;
            }
            ran += 1;
            match self.caller_of_plan(&planned).await {
                Ok(caller) => self.run_planned(caller, planned).await,
                Err(error) => {
                    tracing::warn!(event = "planned-refused", id = planned.id, %error);
                }
            }
        }
        Ok(ran)
    }

    async fn caller_of_plan(&self, planned: &Planned) -> Result<Caller, CommandError> {
        let local = Caller::local(format!("schedule {} by {}", planned.id, planned.by));
        let Some((id, jid)) = &planned.account else { return Ok(local) };
        let caller = self.caller_as(jid, &local).await?;
        // The name may be another account's by now.
        let account = self.account(jid).await?;
        let as_then = planned.generation.is_none()
            || account.is_some_and(|account| Some(account.generation) == planned.generation);
        if caller.account().is_some_and(|me| me.id() == *id) && as_then {
            let caller = if planned.own { caller.only_own() } else { caller };
            return Ok(caller.uncounted());
        }
        Err(CommandError::forbidden(format!("`{jid}` is not who scheduled this any more")))
    }

    async fn run_planned(self: &Arc<Self>, caller: Caller, planned: Planned) {
        let (rows, mut replies) = mpsc::channel(64);
        let run = command::run(self.clone(), caller, &planned.what, planned.args, rows);
        let drain = async { while replies.recv().await.is_some() {} };
        tokio::join!(run, drain);
        tracing::info!(event = "planned-ran", id = planned.id, what = planned.what);
    }

    /// Runs what is due, as it comes due, until the server stops.
    pub async fn keep_schedule(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopping() {
            ticks.tick().await;
            if let Err(error) = self.run_due().await {
                tracing::error!(event = "schedule-failed", %error);
            }
        }
    }
}
