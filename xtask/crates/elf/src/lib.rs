//! ELF files: what a binary needs in order to start, which symbols its bytes belong to, and the form in which it goes into an
//! image. The crate knows nothing of Cargo, images or why a file is looked at. Invariant: a file is hostile until parsed; no
//! content makes a function panic or read without bound.

mod dynamic;
mod finish;
mod needs;
mod sections;
mod symbols;

pub use dynamic::{Needs, SearchPath, is_elf, needs, needs_of};
pub use finish::finish;
pub use needs::require_static;
pub use sections::{Excerpt, SectionDifference, archive_members, difference, section_differences};
pub use symbols::{Section, Symbol, archive_symbols, sections, symbols};
