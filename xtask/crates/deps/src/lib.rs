//! What a binary is made of: the packages that are linked into it, that built it or that only test it, and the bytes that each
//! contributes; budgets, differences between revisions, and a picture. It knows nothing of images or advisories.

mod mangled;
mod report;

pub use report::{Class, Package, Report, Service, Source, Used};
