//! GitHub Actions workflows as typed definitions: written as YAML, compared with what is on disk, run here without YAML, and
//! judged at the end by a gate that knows what was planned. It knows nothing of a workspace's services, and never talks to GitHub.

mod commands;
mod define;
mod event;
mod expr;
mod files;
mod gate;
mod local;
mod model;
pub mod outputs;
mod pins;
pub mod plan;
mod render;
mod settings;
mod yaml;

pub use define::{ci, workflows};
pub use event::{Base, Event, MAX_EVENT_BYTES};
pub use expr::{Condition, Context, Ended, Value};
pub use files::{Drift, FOLDERS, Files, Kind, Owner, Reimport, compare, generate, is_ours, reimport};
pub use gate::{Judgement, Verdict, judge, parse_needs};
pub use local::{JobReport, Local, Outcome, Progress};
pub use model::{
    Action, Arg, Artifact, Body, Cache, Concurrency, Input, Job, Permission, Run, Setup, Step, Steps,
    Trigger, Workflow, Yielding,
};
pub use pins::{Pin, Pins};
pub use settings::{Environment, Settings, Tool};
