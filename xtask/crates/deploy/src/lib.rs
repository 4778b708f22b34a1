//! Blue-green deployment of a release to an environment on this machine: new slots are started beside those that
//! serve, gated on health, switched to in one step at the edge, and the old ones drained and stopped. The crate knows
//! release manifests, image layouts and the edge's control socket; it knows neither how images are made, nor the
//! command line, nor any service by name.
//!
//! Invariant: whatever happens, the edge leads only to slots that passed their gate. What a killed operation leaves
//! behind is cleared up by the next one.

mod audit;
mod databases;
mod difference;
mod driver;
mod edge_process;
mod environment;
mod facts;
pub mod fail_point;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod journal;
mod keeper;
mod lock;
mod log;
mod logs;
mod machine;
mod notify;
mod observe;
mod operation;
mod outcome;
mod plan;
mod platform;
mod process;
mod recover;
mod replica;
mod route_policy;
mod session;
mod slot;
mod state;
mod status;
mod supervisor;
mod target;

pub use audit::{Audit, AuditEvent, AuditRecord, operator};
pub use databases::{BackupSettings, DatabaseEngine, DatabaseSettings, DatabaseTools, UrlSource};
pub use difference::Difference;
pub use environment::{
    DockerSettings, Edge, EdgeCertificate, EdgeTls, Environment, EnvironmentFile, EnvironmentRoute,
    HealthValues, LOCAL, NetworkSettings, PlatformSettings, ScanPolicy, ServiceValues, SignaturePolicy,
    Value, check_name,
};
pub use gate::Answer;
pub use journal::{Activation, History, Open};
pub use lock::{Held, Holder, Overtaken};
pub use logs::{LogLine, LogMode, LogQuery, logs};
pub use machine::{End, Event, Machine, Step};
pub use notify::{Form, Message, On, Reference, Webhook, notify};
pub use operation::{
    Aborted, Down, Kept, Preview, Progress, Site, Volumes, Which, abort, deploy, down, down_dry_run, dry_run,
    kept, repair, resume, rollback, rollback_dry_run,
};
pub use outcome::{Error, Evidence, Outcome};
pub use plan::{Action, Condition, Files, Observed, ObservedSlot, Plan, ServicePlan, plan};
pub use process::ProcessId;
pub use replica::{Exit, Launcher};
pub use route_policy::{AccessLogFile, RateLimitSettings, RoutePolicy, SecurityHeaders, StreamSettings};
pub use status::{EdgeStatus, ProcessStatus, Role, SlotStatus, Status, status};
pub use supervisor::supervise;
pub use target::{Facts, Secret, Target, TargetRoute, TargetService, resolve};
