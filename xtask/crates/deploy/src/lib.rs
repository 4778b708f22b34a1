//! Blue-green deployment of a release to an environment on this machine: new slots are started beside those that
//! serve, gated on health, switched to in one step at the edge, and the old ones drained and stopped. The crate knows
//! release manifests, image layouts and the edge's control socket; it knows neither how images are made, nor the
//! command line, nor any service by name.
//!
//! Invariant: whatever happens, the edge leads only to slots that passed their gate. What a killed operation leaves
//! behind is cleared up by the next one.

mod databases;
mod driver;
mod edge_process;
mod environment;
pub mod fail_point;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod journal;
mod keeper;
mod lock;
mod log;
mod machine;
mod observe;
mod operation;
mod outcome;
mod plan;
mod process;
mod recover;
mod replica;
mod slot;
mod state;
mod status;
mod supervisor;
mod target;

pub use databases::{BackupSettings, DatabaseEngine, DatabaseSettings, DatabaseTools, UrlSource};
pub use environment::{
    Edge, EdgeCertificate, EdgeTls, Environment, EnvironmentFile, EnvironmentRoute, HealthValues, LOCAL,
    Platform, ScanPolicy, ServiceValues, SignaturePolicy, Value, check_name,
};
pub use gate::Answer;
pub use journal::{Activation, History, Open};
pub use lock::Holder;
pub use machine::{End, Event, Machine, Step};
pub use operation::{Down, Progress, Site, Volumes, deploy, down, dry_run, repair, rollback};
pub use outcome::{Error, Evidence, Outcome};
pub use plan::{Action, Condition, Files, Observed, ObservedSlot, Plan, ServicePlan, plan};
pub use process::ProcessId;
pub use replica::{Exit, Launcher};
pub use status::{
    EdgeStatus, LogLine, LogMode, LogQuery, ProcessStatus, Role, SlotStatus, Status, logs, status,
};
pub use supervisor::supervise;
pub use target::{Facts, Secret, Target, TargetRoute, TargetService, resolve};
