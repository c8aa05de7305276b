//! The integration tests: one binary, so that everything is linked once.
//!
//! ```text
//!  tests/scripts/*.script ─► script ─► dialogue ─┬─► against_machine  (wire alone)
//!                             xml, scram ┘       └─► against_server   (world: everything, sockets)
//!  world ─► sessions, deadlines, lists, ends, pace, changes, matrix, churn, rights, rivals,
//!           rodauth, seeds
//!  walls: what may depend on what   rows: which test proves what was asked for
//! ```
#![forbid(unsafe_code)]

mod against_machine;
mod against_server;
mod audit;
mod changes;
mod churn;
mod client_commands;
mod clients;
mod crash;
mod cuts;
mod deadlines;
mod deaths;
mod dialogue;
mod docs;
mod dormant;
mod ending;
mod ends;
mod faults;
mod flights;
mod handover;
mod history;
mod kills;
mod leave;
mod lists;
mod matrix;
mod moving;
mod notices;
mod pace;
mod proxy;
mod rates;
mod rights;
mod rivals;
mod rodauth;
mod rows;
mod scram;
mod script;
mod seeds;
mod sessions;
mod throttle;
mod walls;
mod world;
mod xml;
