//! The integration tests: one binary, so that everything is linked once.
//!
//! ```text
//!  tests/scripts/*.script ─► script ─► dialogue ─┬─► against_machine  (wire alone)
//!                             xml, scram ┘       └─► against_server   (world: everything, sockets)
//!  world ─► sessions, deadlines, lists, ends, pace, changes, churn, rivals
//!  walls: what may depend on what
//!  world ─► sessions, ends, changes, churn, rights, rivals   walls: what may depend on what
//! ```
#![forbid(unsafe_code)]

mod against_machine;
mod against_server;
mod audit;
mod changes;
mod churn;
mod clients;
mod crash;
mod deadlines;
mod dialogue;
mod docs;
mod ends;
mod faults;
mod history;
mod lists;
mod pace;
mod rights;
mod rivals;
mod rows;
mod scram;
mod script;
mod sessions;
mod throttle;
mod walls;
mod world;
mod xml;
