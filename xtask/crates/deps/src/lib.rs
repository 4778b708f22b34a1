//! What a binary is made of: the packages that are linked into it, that built it or that only test it, and the bytes that each
//! contributes; budgets, differences between revisions, and a picture. It knows nothing of images or advisories.

mod budget;
mod bytes;
mod diff;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod mangled;
mod owners;
mod record;
mod references;
mod report;
mod svg;
mod unwind;

pub use budget::{Sizes, Violation, check};
pub use bytes::{Bytes, Places, Weight, weigh};
pub use diff::{Change, Changed, Side, diff};
pub use record::{Record, Recorded};
pub use report::{Class, Package, Report, Service, Source, Used};
pub use svg::svg;
