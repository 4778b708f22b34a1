//! From a workspace to images: load the facts, plan as data, run the plan. One cargo invocation compiles all selected
//! services with flags that keep this machine out of the bits; each binary is then checked and packed. The crate knows nothing
//! of deployments, and of services no more than the workspace says.
//!
//! Invariant: what is reported as unchanged was compared by content with what was built, never trusted by file times alone.

mod action;
mod allowance;
mod assemble;
mod bases;
mod compile;
mod cross;
mod diagnostics;
mod documents;
mod event;
mod finished;
mod flags;
mod fresh;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod git;
mod graph;
mod held;
mod identity;
mod ingredients;
mod inputs;
mod leak;
mod named;
mod native;
mod pack;
mod plan;
mod platforms;
mod pulled;
mod record;
mod report;
mod reproduce;
mod reuse;
mod root;
mod sbom;
mod session;
mod sign;
mod stack;
mod stale;
mod store;
mod stores;
mod toolchain;
mod vouch;
mod work;

pub use bases::{BreakEven, Sizes};
pub use documents::{CYCLONEDX, Described, SPDX, STATEMENT};
pub use event::{Event, Reporter};
pub use flags::SOURCE_DATE_EPOCH;
pub use git::GitState;
pub use leak::Leak;
pub use plan::{Plan, ServicePlan};
pub use platforms::{BuiltIndex, Platforms, PlatformsReport};
pub use report::{Action, BuildError, BuiltLayer, BuiltService, Outcome, Report};
pub use reproduce::{
    Circumstance, Difference, ImageAgain, ImageAt, Kind, Rebuilt, Request, Verification, VerifiedService,
    What, rebuild,
};
pub use reuse::Moved;
pub use session::{Loaded, Session, finished_folder, layout, linked_folder, output_folder};
pub use sign::{sign, sign_platforms};
pub use stack::{BuiltImage, LockChange, Update, debian_store};
pub use stores::Stores;
